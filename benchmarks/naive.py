"""The script that people write: a frozen EfficientNet-Lite0 with a new linear head, in a plain torch loop. It is what
`baseline.py` measures Handful against; its recipe is that of the preset `baseline`.

usage: naive.py FOLDER [--train-mode]   (a folder with train/ and val/ of class folders)

Prints JSON: accuracy on val/ after the last epoch; seconds from after the imports to the end, and how many of them
were validation; bytes of memory after the imports, and the most there were.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.transforms import v2

from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker import backbones
from services.trainer.worker.pretrained import PretrainedWeights

EPOCHS, BATCH, PER_CLASS = 10, 8, 50
ROW = ARCHITECTURES["efficientnet_lite0"]


def transforms(*views: v2.Transform) -> v2.Compose:
    size = ROW.preprocessing.size
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(ROW.mean), list(ROW.std))]
    return v2.Compose([v2.Resize((size, size)), *views, *last])


def topped_up(pictures: datasets.ImageFolder) -> torch.utils.data.Subset[Any]:
    """Every class repeated to PER_CLASS pictures."""
    by_class = [[i for i, label in enumerate(pictures.targets) if label == one] for one in set(pictures.targets)]
    positions = [(members * PER_CLASS)[: max(PER_CLASS, len(members))] for members in by_class]
    return torch.utils.data.Subset(pictures, [position for members in positions for position in members])


class Classifier(torch.nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        recipe = Recipe(architecture=ROW.id, weights=WEIGHTS_PRETRAINED)
        with tempfile.TemporaryDirectory() as folder:
            self.body = backbones.build_body(recipe, PretrainedWeights(FilesystemStore(folder)))
        for weight in self.body.parameters():
            weight.requires_grad = False
        self.head = torch.nn.Linear(ROW.feature_width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images)[0])
        return logits


def validate(model: Classifier, batches: torch.utils.data.DataLoader[Any]) -> tuple[float, float]:
    """Accuracy, and the seconds it took."""
    started = time.perf_counter()
    model.eval()
    with torch.no_grad():
        right = [model(images).argmax(dim=1) == labels for images, labels in batches]
    return torch.cat(right).float().mean().item(), time.perf_counter() - started


def train(folder: Path, *, train_mode: bool) -> dict[str, float]:
    jitter = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    views = transforms(v2.RandomHorizontalFlip(), v2.RandomRotation(15), jitter)
    pictures = topped_up(datasets.ImageFolder(str(folder / "train"), views))
    batches = torch.utils.data.DataLoader(pictures, BATCH, shuffle=True)
    unseen = datasets.ImageFolder(str(folder / "val"), transforms())
    val = torch.utils.data.DataLoader(unseen, BATCH)
    model = Classifier(len(unseen.classes))
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-4, weight_decay=1e-4)
    accuracy, validation_seconds = 0.0, 0.0
    for _ in range(EPOCHS):
        model.train()
        model.body.train(train_mode)
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        accuracy, seconds = validate(model, val)
        validation_seconds += seconds
    return {"accuracy": accuracy, "validation_seconds": validation_seconds}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: Path, *, train_mode: bool) -> None:
    after_imports, started = peak_bytes(), time.perf_counter()
    torch.manual_seed(0)
    found = train(folder, train_mode=train_mode)
    seconds = time.perf_counter() - started
    print(json.dumps({**found, "seconds": seconds, "imports_bytes": after_imports, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), train_mode="--train-mode" in sys.argv)
