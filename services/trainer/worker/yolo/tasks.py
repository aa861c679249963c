"""What the process of `child.py` can do: train, build a body, read the tensors of an official weights file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from safetensors.numpy import load_file, save_file
from ultralytics.nn.tasks import torch_safe_load

from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.worker import graphs
from services.trainer.worker.architectures import of_ultralytics
from services.trainer.worker.yolo import trainer

Task = dict[str, Any]
Say = Callable[[dict[str, Any]], None]

# What Ultralytics' settings would send, or show, to somebody: its own telemetry, loggers that happen to be installed.
_OFF = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg", "openvino_msg")
ultralytics.settings.update(dict.fromkeys(_OFF, False))


def train(task: Task, say: Say) -> None:
    """`head.safetensors`, and, where it may be another than before, the body's graph and tensors."""
    row = input_sizes.at(ARCHITECTURES[task["architecture"]], task["size"])
    torch.manual_seed(task["seed"])
    network = of_ultralytics.network(row.network, task["num_classes"], _pretrained(task))
    trained = trainer.run(network, task, say)
    linear = of_ultralytics.take_linear(trained)
    _save("head", {"weight": linear.weight.detach(), "bias": linear.bias.detach()})
    if task["export"]:
        say({"phase": "graph"})
        _save_body(of_ultralytics.UltralyticsBody(trained.model), row)


def body(task: Task, _: Say) -> None:
    """A body's graph and tensors, without training."""
    row = input_sizes.at(ARCHITECTURES[task["architecture"]], task["size"])
    torch.manual_seed(task["seed"])
    _save_body(of_ultralytics.build(row.network, _pretrained(task)), row)


def tensors(_: Task, __: Say) -> None:
    """`tensors.safetensors` of the file `official.pt`, as float32, and `order.json`, their names in its order."""
    checkpoint, _file = torch_safe_load(Path("official.pt").absolute(), safe_only=True)
    state = (checkpoint.get("ema") or checkpoint["model"]).float().state_dict()
    _save("tensors", state)
    Path("order.json").write_text(json.dumps(list(state)))


def version(_: Task, say: Say) -> None:
    """Which Ultralytics this is."""
    say({"version": ultralytics.__version__})


def _pretrained(task: Task) -> dict[str, Any] | None:
    return load_file("pretrained.safetensors") if task["pretrained"] else None


def _save_body(network: torch.nn.Module, row: ArchitectureRow) -> None:
    graph = graphs.export(network, row)
    graphs.check(graph, network, row)
    _save("body", network.state_dict())
    Path("graph.onnx").write_bytes(graph)


def _save(name: str, state: dict[str, torch.Tensor]) -> None:
    save_file({key: np.ascontiguousarray(one.cpu().numpy()) for key, one in state.items()}, f"{name}.safetensors")


TASKS: dict[str, Callable[[Task, Say], None]] = {"train": train, "body": body, "tensors": tensors, "version": version}
