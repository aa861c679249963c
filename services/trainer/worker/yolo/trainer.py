"""Ultralytics' classification trainer as a recipe has it: its loop, its views, its moving average of the weights. What
it would write, measure or fetch besides is left out: the figures are ours, from what the moving average answers.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.classify import ClassificationTrainer

from services.trainer.worker.architectures.of_ultralytics import UltralyticsBody
from services.trainer.worker.resources import peak_memory_bytes

MEASURED_AT_ONCE = 16
CLASS_FOLDER = "{:06d}"
# Layers of YOLO11's classification networks; the last has the features' convolution and the linear head.
_LAYERS = 11
_BODY = [*range(_LAYERS - 1), f"{_LAYERS - 1}.conv"]


class Trainer(ClassificationTrainer):  # type: ignore[misc]
    """On pictures in `pictures/<class>/`, without validation, checkpoints and results of its own."""

    def __init__(self, num_classes: int, overrides: dict[str, Any]) -> None:
        self._num_classes = num_classes
        super().__init__(overrides=overrides)

    def get_dataset(self) -> dict[str, Any]:
        """Whatever stands there; nothing is looked for elsewhere."""
        names = {index: CLASS_FOLDER.format(index) for index in range(self._num_classes)}
        return {"train": Path("pictures").absolute(), "val": None, "nc": len(names), "names": names, "channels": 3}

    def get_dataloader(self, dataset_path: Any, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """One of the training pictures; the loop wants another to measure with, and does not use it."""
        return super().get_dataloader(dataset_path, batch_size, rank, mode) if mode == "train" else self.train_loader

    def validate(self) -> tuple[dict[str, float], float]:
        return {}, 0.0

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """No."""

    def save_model(self) -> bool:
        return False

    def final_eval(self) -> None:
        """No."""


class _Run:
    """One training, as its callbacks see it."""

    def __init__(self, trainer: Trainer, task: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        self._task = task
        self._say = say
        self._measured = np.load("measured.npy", mmap_mode="r")
        self._started = 0.0
        self._batches = 0
        for event in ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"):
            trainer.add_callback(event, getattr(self, event))

    def on_train_start(self, trainer: Trainer) -> None:
        """Every picture is there: those that Ultralytics takes for corrupt it leaves out."""
        found, given = len(trainer.train_loader.dataset), self._task["num_pictures"]
        if found != given:
            raise ValueError(f"Ultralytics takes {found} of {given} pictures")

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Of too little memory it would make half the batch, and go on."""
        if trainer.batch_size != self._task["batch_size"]:
            raise MemoryError(f"batches of {self._task['batch_size']} do not fit")
        self._started, self._batches = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer) -> None:
        self._batches += 1
        seen = min(self._batches * trainer.batch_size, self._task["num_pictures"])
        self._say({"epoch": trainer.epoch + 1, "seen": seen})

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.epoch + 1
        _keep_frozen(trainer)
        np.save(f"probabilities-{epoch}.npy", self._probabilities(trainer.ema.ema, trainer.device))
        metrics = {
            "train/loss": float(trainer.tloss["loss"]),
            "learning_rate": float(trainer.optimizer.param_groups[0]["lr"]),
            "seconds": time.perf_counter() - self._started,
        }
        self._say({"epoch": epoch, "metrics": metrics, **_peaks(trainer.device)})

    @torch.no_grad()
    def _probabilities(self, network: Any, device: torch.device) -> Any:
        """float32[n, classes]; pictures come as they do when the model serves."""
        body, linear, rows = UltralyticsBody(network.model), network.model[-1].linear, []
        for first in range(0, len(self._measured), MEASURED_AT_ONCE):
            pixels = torch.from_numpy(self._measured[first : first + MEASURED_AT_ONCE].copy()).to(device)
            logits = linear(body(pixels.permute(0, 3, 1, 2).float() / 255)[0])
            rows.append(logits.softmax(dim=1).cpu().numpy())
        return np.concatenate(rows)


def run(network: torch.nn.Module, task: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> torch.nn.Module:
    """Trains the network on what lies in the folder; its moving average in the end."""
    trainer = Trainer(task["num_classes"], _overrides(task))
    trainer.callbacks = defaultdict(list)  # theirs tell others of it
    trainer.model = network
    _Run(trainer, task, say)
    trainer.train()
    trained: torch.nn.Module = trainer.ema.ema
    return trained


def _overrides(task: dict[str, Any]) -> dict[str, Any]:
    """The recipe in Ultralytics' words (https://docs.ultralytics.com/usage/cfg)."""
    return {
        # A name is not needed, but must be one.
        "model": "yolo11n-cls.yaml",
        "project": str(Path.cwd()),
        "name": "run",
        "epochs": task["num_epochs"],
        "batch": task["batch_size"],
        # A step per batch: they would add the gradients of 64 pictures up.
        "nbs": task["batch_size"],
        "imgsz": task["size"],
        "seed": task["seed"],
        "freeze": _BODY if task["frozen"] else None,
        # Adam as the other networks of the preset have it: a constant step size, no warm-up.
        "optimizer": "Adam",
        "lr0": task["learning_rate"],
        "lrf": 1.0,
        "momentum": 0.9,
        "warmup_epochs": 0.0,
        "weight_decay": task["weight_decay"],
        "fliplr": task["horizontal_flip"],
        "flipud": 0.0,
        "hsv_h": 0.0,
        "hsv_s": task["saturation"],
        "hsv_v": task["brightness"],
        "scale": 0.0,
        "auto_augment": "",
        "erasing": 0.0,
        "device": "0" if torch.cuda.is_available() else "cpu",
        # It would fetch another network to try half precision with.
        "amp": False,
        "workers": 0,
        "patience": 0,
        "val": False,
        "save": False,
        "plots": False,
        "verbose": False,
    }


@torch.no_grad()
def _keep_frozen(trainer: Trainer) -> None:
    """The average of what did not change is what it was, to the last bit."""
    average, current = trainer.ema.ema.state_dict(), trainer.model.state_dict()
    for name, tensor in average.items():
        if any(frozen in name for frozen in trainer.freeze_layer_names):
            tensor.copy_(current[name])


def _peaks(device: torch.device) -> dict[str, int]:
    accelerator = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"memory_bytes": peak_memory_bytes(), "accelerator_bytes": accelerator}
