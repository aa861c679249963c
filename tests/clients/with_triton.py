"""Everything that Triton's own client can ask of us: `with_triton.py ADDRESS PICTURE...`, red, green and blue.

Runs in an environment of its own, which has tritonclient and nothing of ours.
"""

import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

SIZE = 32
COLOURS = {"red": (210, 50, 50), "green": (50, 210, 50), "blue": (50, 50, 210)}


def of_files(files: list[bytes]) -> triton.InferInput:
    """Raw BYTES, as the client always sends them."""
    tensor = triton.InferInput("image", [len(files), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[one] for one in files], dtype=np.object_))
    return tensor


def asks_after_the_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("known")
    assert client.is_model_ready("known", "1")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata().name == "handful"
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {"name": "known", "version": "1", "state": "READY"} in index


def asks_after_a_model(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("known", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": ["-1", "1"]}]
    assert [one["name"] for one in metadata["outputs"]] == ["probabilities", "unknown", "distance"]
    config = client.get_model_config("known", as_json=True)["config"]
    assert config["max_batch_size"] == 32
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    config = client.get_model_config("known.pixels", as_json=True)["config"]
    assert (config["input"][0]["data_type"], config["input"][0]["format"]) == ("TYPE_UINT8", "FORMAT_NHWC")


def has_files_answered(client: triton.InferenceServerClient, files: list[bytes]) -> None:
    result = client.infer("known", [of_files(files)], request_id="mine")
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1, 2]
    assert np.allclose(result.as_numpy("probabilities").sum(axis=1), 1)
    assert result.as_numpy("unknown").ravel().tolist() == [False, False, True]
    assert result.as_numpy("distance").shape == (3, 1)
    assert (result.get_response().id, result.get_response().model_version) == ("mine", "1")


def has_classes_named(client: triton.InferenceServerClient, files: list[bytes]) -> None:
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    named = client.infer("known", [of_files(files)], outputs=[wanted]).as_numpy("probabilities")
    assert named.shape == (3, 2)
    assert [row[0].decode().split(":")[1:] for row in named] == [["0", "red"], ["1", "green"], ["2", "blue"]]


def has_pixels_answered(client: triton.InferenceServerClient) -> None:
    pixels = np.stack([np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in COLOURS.values()])
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    result = client.infer("known.pixels", [tensor], model_version="1")
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1, 2]


def has_a_stream_answered(client: triton.InferenceServerClient, files: list[bytes]) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for request, data in enumerate([files[0], b"no picture", files[2]]):
        client.async_stream_infer("known", [of_files([data])], request_id=str(request))
    found = [answers.get(timeout=20) for _ in range(3)]
    client.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert "INVALID_ARGUMENT" in str(found[1][1])
    assert [result.as_numpy("probabilities").argmax() for result, error in found if error is None] == [0, 2]


def is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    for model, told in [("nothing", "NOT_FOUND"), ("known", "INVALID_ARGUMENT")]:
        said = ""
        try:
            client.infer(model, [of_files([b"no picture"])])
        except InferenceServerException as problem:
            said = str(problem)
        assert told in said


def reads_statistics(client: triton.InferenceServerClient) -> None:
    counts = client.get_inference_statistics("known", as_json=True)["model_stats"][0]
    assert (counts["name"], counts["version"]) == ("known", "1")
    assert int(counts["inference_count"]) >= 11
    assert int(counts["inference_stats"]["success"]["count"]) >= 4
    assert int(counts["inference_stats"]["fail"]["count"]) >= 2


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1])
    files = [Path(one).read_bytes() for one in sys.argv[2:]]
    asks_after_the_server(client)
    asks_after_a_model(client)
    has_files_answered(client, files)
    has_classes_named(client, files)
    has_pixels_answered(client)
    has_a_stream_answered(client, files)
    is_told_what_is_wrong(client)
    reads_statistics(client)


main()
