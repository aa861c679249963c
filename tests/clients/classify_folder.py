"""What Triton's image clients do: `classify_folder.py ADDRESS MODEL FOLDER BATCH` asks what a model takes, makes every
picture of a folder into that, and prints `file label` for each. It uses tritonclient's bare stubs.
"""

import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor


def takes(stub: Any, model: str) -> tuple[Any, str, int]:
    """The input that the model takes, the name of its one output, and the most pictures in a request."""
    metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model))
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
    (taken,), (given,), (described,) = metadata.inputs, metadata.outputs, config.input
    assert described.format == model_config_pb2.ModelInput.FORMAT_NHWC
    assert (taken.datatype, given.datatype) == ("UINT8", "FP32")
    assert list(taken.shape[1:]) == list(described.dims)
    return taken, given.name, config.max_batch_size


def main(address: str, model: str, folder: str, batch: int) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
    taken, output, most = takes(stub, model)
    assert batch <= most
    _, height, width, channels = taken.shape
    paths = sorted(Path(folder).iterdir())
    for first in range(0, len(paths), batch):
        some = paths[first : first + batch]
        pixels = np.stack([np.asarray(Image.open(one).convert("RGB").resize((width, height))) for one in some])
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=taken.name, datatype="UINT8", shape=[len(some), height, width, channels])
        request.outputs.add(name=output).parameters["classification"].int64_param = 1
        request.raw_input_contents.append(pixels.tobytes())
        response = stub.ModelInfer(request)
        for one, found in zip(some, deserialize_bytes_tensor(response.raw_output_contents[0]), strict=True):
            print(one.name, found.decode().split(":")[2])


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
