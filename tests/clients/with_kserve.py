"""Everything that KServe's own client can ask of us: `with_kserve.py ADDRESS PICTURE...`, red, green and blue.

Runs in an environment of its own, which has kserve and nothing of ours.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, files: list[bytes]) -> None:
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("known")
        assert not await client.is_model_ready("nothing")
        typed = InferInput("image", [len(files)], "BYTES", data=files)
        raw = InferInput("image", [len(files)], "BYTES", data=np.array(files, dtype=np.object_))
        pixels = InferInput("pixels", [1, 32, 32, 3], "UINT8", data=np.full((1, 32, 32, 3), (50, 50, 210), np.uint8))
        answers = [
            (await client.infer(InferRequest("known", [one]))).get_output_by_name("probabilities").as_numpy()
            for one in (typed, raw)
        ]
        assert answers[0].shape == (3, 3)
        assert answers[0].argmax(axis=1).tolist() == [0, 1, 2]
        assert np.array_equal(*answers)
        answer = await client.infer(InferRequest("known.pixels", [pixels]))
        assert (answer.model_version, answer.outputs[0].as_numpy().argmax()) == ("1", 2)


asyncio.run(main(sys.argv[1], [Path(one).read_bytes() for one in sys.argv[2:]]))
