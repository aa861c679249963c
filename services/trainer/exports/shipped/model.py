"""The model in this folder as a PyTorch module, to read, to change or to train on.

It needs numpy, Pillow, safetensors, torch, and timm, torchvision or ultralytics, whichever network.json names. The
network is built by its name and filled from safetensors files: nothing is downloaded, and no pickle is opened.
`python model.py some.jpg` prints the best classes.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import Preprocessing, decode, fit
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


class Body(torch.nn.Module):
    """The network without its last layer: float32[n, width] of normalised pictures float32[n, 3, size, size]."""

    def __init__(self, library: str, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        built, self.pooled = _LIBRARIES[library]
        self.network: Any = built(name, options)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pooled(self.network, images)
        return pooled


class Head(torch.nn.Module):
    """One logit per class: float32[n, classes] of features float32[n, width]."""

    def __init__(self, normalization: str, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.normalization = normalization
        self.weight = torch.nn.Parameter(tensors["weight"])
        self.bias = torch.nn.Parameter(tensors["bias"])
        self.mean = torch.nn.Buffer(tensors["mean"])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.normalization == "center_l2":
            # The mean of the training features is taken away, and what is left gets the length sqrt(width).
            features = torch.nn.functional.normalize(features - self.mean) * features.shape[1] ** 0.5
        return torch.nn.functional.linear(features, self.weight, self.bias)


class Classifier(torch.nn.Module):
    """Probabilities float32[n, classes] of pixels uint8[n, size, size, 3]."""

    def __init__(self, folder: Path = HERE) -> None:
        super().__init__()
        network, preprocessing = _json(folder / "network.json"), _json(folder / "preprocessing.json")
        self.labels = _labels(folder)
        self.preprocessing = Preprocessing(**preprocessing["image"])
        self.body = Body(network["library"], network["name"], network["options"])
        self.body.load_state_dict(load_file(folder / "bundle" / "backbone.safetensors"))
        self.head = Head(network["normalization"], load_file(folder / "bundle" / "head.safetensors"))
        self.mean = torch.nn.Buffer(torch.tensor(preprocessing["mean"]).view(1, 3, 1, 1))
        self.std = torch.nn.Buffer(torch.tensor(preprocessing["std"]).view(1, 3, 1, 1))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        logits: torch.Tensor = self.head(self.body(images))
        return logits.softmax(dim=1)

    def pixels(self, picture: bytes) -> torch.Tensor:
        """uint8[size, size, 3] of a JPEG, PNG or WebP file."""
        image = fit(decode(picture, self.preprocessing.draft), self.preprocessing)
        return torch.from_numpy(np.array(image))


def _timm(name: str, options: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, **options)


def _timm_pooled(network: Any, images: torch.Tensor) -> torch.Tensor:
    last = network.forward_features(images)
    # A map of a convolutional network, or the tokens of a transformer.
    pooled: torch.Tensor = last.mean(dim=(2, 3)) if last.dim() == 4 else network.forward_head(last)  # noqa: PLR2004
    return pooled


def _torchvision(name: str, options: dict[str, Any]) -> Any:
    import torchvision

    network = torchvision.models.get_model(name, weights=None, **options)
    for last in ("classifier", "fc", "heads"):
        if hasattr(network, last):
            # ConvNeXt normalises what it pooled; of the others nothing is left.
            layer = network.classifier[0] if name.startswith("convnext") else torch.nn.Identity()
            setattr(network, last, layer)
    return network


def _torchvision_pooled(network: Any, images: torch.Tensor) -> torch.Tensor:
    if hasattr(network, "class_token"):  # a transformer, which ends with its class token
        whole: torch.Tensor = network(images)
        return whole
    for name, layer in network.named_children():
        if name == "avgpool":
            break
        images = layer(images)
    pooled = images.mean(dim=(2, 3), keepdim=True)
    last = getattr(network, "classifier", torch.nn.Identity())
    return last(pooled).flatten(1)  # type: ignore[no-any-return]


def _ultralytics(name: str, options: dict[str, Any]) -> Any:
    os.environ["YOLO_OFFLINE"] = "true"  # else it calls its makers
    from ultralytics.nn.tasks import ClassificationModel

    network = ClassificationModel(f"{name}.yaml", verbose=False, **options).model
    network[-1].linear = torch.nn.Identity()
    return network


def _ultralytics_pooled(network: Any, images: torch.Tensor) -> torch.Tensor:
    *layers, last = network
    for layer in layers:
        images = layer(images)
    pooled: torch.Tensor = last.conv(images).mean(dim=(2, 3))
    return pooled


# How each library's network is built, and how its features are pooled.
_LIBRARIES: dict[str, tuple[Any, Any]] = {
    "timm": (_timm, _timm_pooled),
    "torchvision": (_torchvision, _torchvision_pooled),
    "ultralytics": (_ultralytics, _ultralytics_pooled),
}


def _labels(folder: Path) -> list[str]:
    id2label = _json(folder / "labels.json")["id2label"]
    return [id2label[str(index)] for index in range(len(id2label))]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    classifier = Classifier()
    for path in sys.argv[1:]:
        with torch.inference_mode():
            row = classifier(classifier.pixels(Path(path).read_bytes())[None])[0]
        best = row.argsort(descending=True)[:3].tolist()
        print(f"{path}: " + "  ".join(f"{classifier.labels[index]} {row[index]:.3f}" for index in best))
