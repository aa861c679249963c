"""Gradient training of a linear head, on a frozen body or with it: preset `baseline`. Read it from top to bottom."""

import hashlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import FREEZE_NONE, FROZEN_MODE_TRAIN, Backbone, Head, ImagePreprocessing
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.worker import augmentations, backbones
from services.trainer.worker.evaluation import scores
from services.trainer.worker.examples import Example, Examples, targets
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.weights import load_checkpoint
from services.trainer.worker.work import Trained, Work, peak_memory_bytes

VALIDATION_BATCH = 16


@dataclass
class Network:
    """A body and a head on a device. `changes` says whether training changes the body: its weights, or, where a
    frozen body runs in train mode, its batch statistics.
    """

    body: torch.nn.Module
    head: torch.nn.Linear
    row: ArchitectureRow
    device: torch.device
    trains_body: bool
    changes: bool

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32[n, feature_width] of uint8[n, 3, size, size]."""
        mean = torch.tensor(self.row.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.row.std, device=self.device).view(1, 3, 1, 1)
        images = (pixels.to(self.device).float() / 255 - mean) / std
        features: torch.Tensor = self.body(images.contiguous(memory_format=torch.channels_last))[0]
        return features

    def logits_to_train(self, pixels: torch.Tensor) -> torch.Tensor:
        """With the body as training has it."""
        self.body.train(self.changes)
        if self.trains_body:
            return self.head(self.features(pixels))  # type: ignore[no-any-return]
        with torch.no_grad():
            features = self.features(pixels)
        return self.head(features)  # type: ignore[no-any-return]

    @torch.no_grad()
    def features_to_measure(self, pixels: torch.Tensor) -> torch.Tensor:
        """With the body as it will serve."""
        self.body.eval()
        return torch.cat([self.features(batch) for batch in torch.split(pixels, VALIDATION_BATCH)])


def train(work: Work, examples: Examples) -> Trained:
    """Trains epoch by epoch, from the claim's checkpoint where there is one."""
    recipe = work.recipe
    work.progress("loading")
    row = ARCHITECTURES[recipe.architecture]
    preprocessing = ImagePreprocessing(
        fit=ImagePreprocessing.FIT_SQUASH, size=row.preprocessing.size, filter="bilinear"
    )
    torch.set_num_threads(work.threads)
    network = _network(work, row, len(examples.labels))
    optimizer = torch.optim.Adam(
        [parameter for module in _trained(network) for parameter in module.parameters()],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    train_pixels = _load(work, examples, examples.train, preprocessing)
    val_pixels = _load(work, examples, examples.val, preprocessing)
    first = _resume(work, network, optimizer) + 1
    order = _top_up(work, examples)
    view = augmentations.build(recipe)
    labels = torch.from_numpy(targets(examples.train))
    constant = None if network.changes else network.features_to_measure(val_pixels)
    val_probabilities = _probabilities(network, constant, val_pixels)

    for epoch in range(first, recipe.num_epochs + 1):
        started = time.perf_counter()
        total_loss, right, seen = 0.0, 0, 0
        for batch in _batches(order, recipe.batch_size):
            logits = network.logits_to_train(augmentations.views(view, train_pixels[batch]))
            wanted = labels[batch].to(network.device)
            loss = torch.nn.functional.cross_entropy(logits, wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total_loss += loss.item() * len(batch)
            right += int((logits.argmax(dim=1) == wanted).sum())
            seen += len(batch)
            work.progress("fitting", (epoch - 1) * len(order) + seen, recipe.num_epochs * len(order))
        val_probabilities = _probabilities(network, constant, val_pixels)
        seconds = time.perf_counter() - started
        work.epoch(
            epoch,
            {
                "train/loss": total_loss / seen,
                "train/accuracy": right / seen,
                **scores(targets(examples.val), val_probabilities),
                "learning_rate": recipe.learning_rate,
                "seconds": seconds,
                "examples_per_second": seen / seconds,
                "peak_memory_bytes": _peak_memory_bytes(network.device),
                "eta_seconds": seconds * (recipe.num_epochs - epoch),
            },
        )
        _save(work, network, optimizer, epoch)
    return _trained_model(work, examples, network, preprocessing, val_pixels, val_probabilities, train_pixels)


def _network(work: Work, row: ArchitectureRow, num_classes: int) -> Network:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    body = backbones.build_body(work.recipe, work.weights)
    body = body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trains_body = work.recipe.freeze == FREEZE_NONE
    body.requires_grad_(trains_body)
    torch.manual_seed(work.recipe.seed)
    head = torch.nn.Linear(row.feature_width, num_classes).to(device)
    changes = trains_body or work.recipe.frozen_mode == FROZEN_MODE_TRAIN
    return Network(body, head, row, device, trains_body, changes)


def _trained(network: Network) -> list[torch.nn.Module]:
    return [network.head, network.body] if network.trains_body else [network.head]


def _load(
    work: Work, examples: Examples, wanted: tuple[Example, ...], preprocessing: ImagePreprocessing
) -> torch.Tensor:
    """uint8[n, 3, size, size]: resized once, since every view begins with the same resize."""
    size = preprocessing.size
    pixels = np.empty((len(wanted), size, size, 3), dtype=np.uint8)
    for position, example in enumerate(wanted):
        pixels[position] = examples.pixels(work.store, example, preprocessing)
        work.progress("loading", position + 1, len(wanted))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _top_up(work: Work, examples: Examples) -> torch.Tensor:
    """The positions of an epoch: every training example once, small classes repeated up to `target_size`."""
    labels = targets(examples.train)
    positions = []
    for index, label in enumerate(examples.labels):
        members = np.flatnonzero(labels == index)
        target = work.recipe.target_size
        if 0 < len(members) < target:
            work.notice("TOPPED_UP", f"{label}: {len(members)} training examples repeated to {target}.")
            members = np.resize(members, target)
        positions.append(members)
    return torch.from_numpy(np.concatenate(positions))


def _batches(order: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    return iter(torch.split(order[torch.randperm(len(order))], batch_size))


def _probabilities(network: Network, constant: torch.Tensor | None, pixels: torch.Tensor) -> Floats:
    """float32[n, classes]; a body that does not change has its features computed once."""
    if not len(pixels):
        return np.zeros((0, network.head.out_features), dtype=np.float32)
    features = network.features_to_measure(pixels) if constant is None else constant
    with torch.no_grad():
        probabilities: Floats = network.head(features).softmax(dim=1).cpu().numpy()
    return probabilities


def _save(work: Work, network: Network, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    state = {
        "epoch": epoch,
        "head": network.head.state_dict(),
        "body": network.body.state_dict() if network.changes else {},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    work.checkpoint(epoch, data, hashlib.sha256(data).hexdigest())


def _resume(work: Work, network: Network, optimizer: torch.optim.Optimizer) -> int:
    """The epoch that the checkpoint of the claim ends with, its state restored; 0 without one."""
    if not work.claim.HasField("checkpoint"):
        return 0
    checkpoint = work.claim.checkpoint
    state = load_checkpoint(work.store.get(checkpoint.key, checkpoint.sha256))
    network.head.load_state_dict(state["head"])
    if network.changes:
        network.body.load_state_dict(state["body"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return int(state["epoch"])


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()


def _trained_model(
    work: Work,
    examples: Examples,
    network: Network,
    preprocessing: ImagePreprocessing,
    val_pixels: torch.Tensor,
    val_probabilities: Floats,
    train_pixels: torch.Tensor,
) -> Trained:
    golden = (val_pixels if len(val_pixels) else train_pixels)[:NUM_GOLDEN]
    probabilities = _probabilities(network, None, golden)
    head = LinearHead(
        Head.NORMALIZATION_NONE,
        network.head.weight.detach().cpu().numpy(),
        network.head.bias.detach().cpu().numpy(),
        np.zeros(network.row.feature_width, dtype=np.float32),
    )
    backbone = work.wait("graph", lambda: _backbone(work, network, preprocessing))
    pixels = golden.permute(0, 2, 3, 1).contiguous().numpy()
    return Trained(examples, backbone, head, val_probabilities, pixels, probabilities)


def _backbone(work: Work, network: Network, preprocessing: ImagePreprocessing) -> Backbone:
    if not network.changes:
        found = backbones.find(work.store, work.weights, work.recipe, preprocessing, work.project, work.children)
        return found[0]
    body = network.body.cpu().to(memory_format=torch.contiguous_format)
    return backbones.store_body(work.store, body, network.row, preprocessing, project=work.project, origin="trained")[0]
