"""Torch's networks as ONNX graphs: pixels in, features and feature map out, with scaling and normalisation inside."""

import logging
import warnings
from typing import Any

import torch

from handful.bundle.predictor import Backbone
from services.trainer.architectures import ArchitectureRow
from services.trainer.worker import agreement
from services.trainer.worker.agreement import GraphDisagrees

OPSET = 18


class PixelsIn(torch.nn.Module):
    """A body that takes pixels: uint8[n, size, size, 3]."""

    def __init__(self, body: torch.nn.Module, row: ArchitectureRow) -> None:
        super().__init__()
        self.body = body
        mean, std = torch.tensor(row.mean), torch.tensor(row.std)
        self.scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self.offset = (-mean / std).view(1, 3, 1, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, feature_map = self.body(pixels.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        return features, feature_map


def export(body: torch.nn.Module, row: ArchitectureRow) -> bytes:
    """The body as one ONNX file, with a free batch size."""
    size = row.preprocessing.size
    network = PixelsIn(body, row).cpu().eval()
    sample = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network,
            (sample,),
            input_names=["pixels"],
            output_names=["features", "feature_map"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise GraphDisagrees("the exporter made nothing")
    graph: bytes = _without_traces(program.model_proto).SerializeToString()
    return graph


def _without_traces(model: Any) -> Any:
    # Where in which file of ours a node came from: it tells of this machine, and makes equal graphs differ.
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
    return model


def check(graph: bytes, body: torch.nn.Module, row: ArchitectureRow) -> None:
    """GraphDisagrees where the graph computes other features than the network."""
    pixels = agreement.sample(row.preprocessing.size)
    with torch.inference_mode():
        expected = PixelsIn(body, row).cpu().eval()(torch.from_numpy(pixels))[0].numpy()
    agreement.check(Backbone(graph).features(pixels), expected, row.id)
