"""Gradient training of a network or of a head on it: presets `fine_tune` and `baseline`. Read it from top to bottom.

What `baseline` lacks is neutral in its recipe: 0, or not set.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import structlog
import torch

from handful.bundle.heads import Floats
from handful.bundle.neighbours import Neighbours
from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import Backbone, Head, ImagePreprocessing, Recipe
from services.trainer import input_sizes
from services.trainer.presets import FINE_TUNE
from services.trainer.worker import augmentations, backbones, familiarity, initial_head, mixing, networks, topping_up
from services.trainer.worker.early_stopping import EarlyStopping
from services.trainer.worker.evaluation import scores
from services.trainer.worker.examples import Example, Examples, targets
from services.trainer.worker.memory import OutOfMemory, batch_that_fits, is_out_of_memory
from services.trainer.worker.networks import Network
from services.trainer.worker.optimisation import Optimiser
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.resources import peak_memory_bytes
from services.trainer.worker.training_state import Training, resume, save
from services.trainer.worker.work import Diverged, Trained, Work

log = structlog.get_logger()


@dataclass(frozen=True)
class Data:
    """The pictures, uint8[n, 3, size, size], resized once, since every view begins with the same resize; the class
    indices of those to train on, int64[n]; and the positions of them that an epoch goes through.
    """

    train: torch.Tensor
    val: torch.Tensor
    labels: torch.Tensor
    order: torch.Tensor


@dataclass(frozen=True)
class Fitted:
    """A network after its last epoch, how pictures come to it, and its answers on the validation examples."""

    network: Network
    preprocessing: ImagePreprocessing
    data: Data
    val_probabilities: Floats


def train(work: Work, examples: Examples) -> Trained:
    """Trains epoch by epoch, from the claim's checkpoint where there is one."""
    return _trained_model(work, examples, fit(work, examples))


def fit(work: Work, examples: Examples) -> Fitted:
    """As `train`, without making a model of it."""
    work.progress("loading")
    _settle_precision(work)
    recipe, num_classes = work.recipe, len(examples.labels)
    torch.set_num_threads(work.threads)
    network = networks.build(recipe, work.weights, num_classes)
    preprocessing = input_sizes.preprocessing(recipe, textbook=recipe.preset != FINE_TUNE)
    data = _load(work, examples, preprocessing)
    num_steps = recipe.num_epochs * math.ceil(len(data.order) / recipe.batch_size)
    stopping = EarlyStopping(recipe.early_stopping_epochs)
    training = Training(network, Optimiser(recipe, network, num_steps), stopping)
    last = resume(work, training, examples.labels)
    if not last and recipe.initial_head == bundle_pb2.INITIAL_HEAD_FAST:
        network.take(initial_head.fit(work, network, data.train, data.labels.numpy(), num_classes))
    constant = None if network.changes else network.features_to_measure(data.val)
    val_probabilities = _val_probabilities(network, constant, data.val)

    while last < recipe.num_epochs and not stopping.is_over(last):
        last += 1
        started = time.perf_counter()
        metrics = _epoch_in_memory(work, training, data, last, num_classes)
        val_probabilities = _val_probabilities(network, constant, data.val)
        if not np.isfinite(val_probabilities).all():
            raise Diverged.in_epoch(last)
        metrics |= scores(targets(examples.val), val_probabilities)
        seconds = time.perf_counter() - started
        work.epoch(
            last,
            {
                **metrics,
                "learning_rate": training.optimiser.learning_rate,
                "seconds": seconds,
                "examples_per_second": len(data.order) / seconds,
                "peak_memory_bytes": _peak_memory_bytes(network.device),
                "eta_seconds": seconds * (recipe.num_epochs - last),
            },
        )
        stopping.look(last, metrics.get("val/loss"), network)
        if work.keeps_checkpoints:
            save(work, training, examples.labels, last)
    if stopping.patience:
        _say_which_epoch(work, stopping, last)
        stopping.restore(network)
        val_probabilities = _val_probabilities(network, constant, data.val)
    return Fitted(network, preprocessing, data, val_probabilities)


def _epoch_in_memory(work: Work, training: Training, data: Data, epoch: int, num_classes: int) -> dict[str, float]:
    """An epoch; OutOfMemory with a batch size that fits, where this one does not. It is found only once the exception,
    whose frames hold what did not fit, is gone.
    """
    try:
        return _epoch(work, training, data, epoch, num_classes)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        log.warning("out of memory", batch_size=work.recipe.batch_size, problem=str(problem))
    asked = min(work.recipe.batch_size, len(data.order))
    fitting = batch_that_fits(asked, lambda size: _try_steps(work, training, data, size))
    tried = "Not even one example fits."
    if fitting:  # half of it, since no two runs need quite the same
        tried = f"batch_size={max(1, fitting // 2)} does: steps with {fitting} were tried."
    raise OutOfMemory(f"The memory of the worker does not suffice for batches of {asked}. {tried}")


def _try_steps(work: Work, training: Training, data: Data, batch_size: int) -> None:
    """Two steps, since what an optimiser keeps is made in the first. What they do to a run that failed is no matter."""
    network, batch = training.network, data.order[:batch_size]
    view = augmentations.build(work.recipe, data.train.shape[-1])
    for number in range(2):
        work.progress("fitting")
        images = network.images(augmentations.views(view, data.train[batch]))
        with training.optimiser.computing():
            logits = network.logits_to_train(images)
            loss = torch.nn.functional.cross_entropy(logits, data.labels[batch].to(network.device))
        training.optimiser.step(loss, number)


def _epoch(work: Work, training: Training, data: Data, epoch: int, num_classes: int) -> dict[str, float]:
    """Goes through the training examples once; the figures of what it saw on the way. Diverged."""
    recipe, network = work.recipe, training.network
    view = augmentations.build(recipe, data.train.shape[-1])
    mix = mixing.build(recipe, num_classes)
    class_weights = _class_weights(recipe, data, num_classes, network.device)
    first_step = (epoch - 1) * math.ceil(len(data.order) / recipe.batch_size)
    total_loss, right, seen = 0.0, 0, 0
    for number, batch in enumerate(_batches(data.order, recipe.batch_size), start=first_step):
        images = network.images(augmentations.views(view, data.train[batch]))
        wanted = data.labels[batch].to(network.device)
        target = wanted
        if mix is not None:
            images, target = mix(images, wanted)
            wanted = target.argmax(dim=1)
        with training.optimiser.computing():
            logits = network.logits_to_train(images)
            loss = torch.nn.functional.cross_entropy(
                logits, target, class_weights, label_smoothing=recipe.label_smoothing
            )
        training.optimiser.step(loss, number)
        if not math.isfinite(loss.item()):
            raise Diverged.in_epoch(epoch)
        total_loss += loss.item() * len(batch)
        right += int((logits.argmax(dim=1) == wanted).sum())
        seen += len(batch)
        total = recipe.num_epochs * len(data.order)
        work.progress("fitting", (epoch - 1) * len(data.order) + seen, total)
    if not network.is_finite():  # the last step may have been one too far
        raise Diverged.in_epoch(epoch)
    return {"train/loss": total_loss / seen, "train/accuracy": right / seen}


def _settle_precision(work: Work) -> None:
    """Where the recipe's numbers are not to be had here, the run goes on in float32, in later attempts too."""
    if work.recipe.precision != bundle_pb2.PRECISION_FLOAT16 or torch.cuda.is_available():
        return
    work.notice("PRECISION_FALLBACK", "float16 needs CUDA, which this worker has not. The run trains in float32.")
    settled = Recipe()
    settled.CopyFrom(work.recipe)
    settled.precision = bundle_pb2.PRECISION_FLOAT32
    work.settle(settled)


def _load(work: Work, examples: Examples, preprocessing: ImagePreprocessing) -> Data:
    return Data(
        _pixels(work, examples, examples.train, preprocessing),
        _pixels(work, examples, examples.val, preprocessing),
        torch.from_numpy(targets(examples.train)),
        torch.from_numpy(topping_up.positions(work, examples)),
    )


def _pixels(
    work: Work, examples: Examples, wanted: tuple[Example, ...], preprocessing: ImagePreprocessing
) -> torch.Tensor:
    """uint8[n, 3, size, size]."""
    size = preprocessing.size
    pixels = np.empty((len(wanted), size, size, 3), dtype=np.uint8)
    for position, example in enumerate(wanted):
        pixels[position] = examples.pixels(work.store, example, preprocessing)
        work.progress("loading", position + 1, len(wanted))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _class_weights(recipe: Recipe, data: Data, num_classes: int, device: torch.device) -> torch.Tensor | None:
    """float32[classes]: n / (classes x n of the class), of what an epoch goes through."""
    if recipe.class_weights != bundle_pb2.CLASS_WEIGHTS_BALANCED:
        return None
    counts = torch.bincount(data.labels[data.order], minlength=num_classes).clamp_min(1)
    return (len(data.order) / (num_classes * counts)).float().to(device)


def _batches(order: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    return iter(torch.split(order[torch.randperm(len(order))], batch_size))


def _val_probabilities(network: Network, constant: torch.Tensor | None, pixels: torch.Tensor) -> Floats:
    """float32[n, classes]; a body that does not change has its features computed once."""
    if not len(pixels):
        return np.zeros((0, network.head.out_features), dtype=np.float32)
    return network.probabilities(network.features_to_measure(pixels) if constant is None else constant)


def _say_which_epoch(work: Work, stopping: EarlyStopping, last: int) -> None:
    if not stopping.epoch:
        message = "There are no validation examples to stop by: all epochs were trained and the last is published."
    else:
        stopped = f"Stopped after epoch {last}. " if stopping.is_over(last) else ""
        message = (
            f"{stopped}Epoch {stopping.epoch}, which had the lowest val/loss, is published; "
            "chosen by them, its val figures are a little too good."
        )
    work.notice("EARLY_STOPPING", message)


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()


def _trained_model(work: Work, examples: Examples, fitted: Fitted) -> Trained:
    network, data = fitted.network, fitted.data
    golden = (data.val if len(data.val) else data.train)[:NUM_GOLDEN]
    probabilities = _val_probabilities(network, None, golden)
    head = network.linear_head()
    known = _known(work, examples, network, data)
    backbone = work.wait("graph", lambda: _backbone(work, network, fitted.preprocessing))
    pixels = golden.permute(0, 2, 3, 1).contiguous().numpy()
    described = Head(normalization=head.normalization)
    answers = fitted.val_probabilities, pixels, probabilities
    return Trained(examples, backbone, head, described, *answers, neighbours=known)


def _known(work: Work, examples: Examples, network: Network, data: Data) -> Neighbours | None:
    rows = initial_head.features(work, network, data.train)
    if not network.changes:
        return familiarity.of_frozen(examples, rows)
    return familiarity.of_trained(examples, rows, initial_head.features(work, network, data.val))


def _backbone(work: Work, network: Network, preprocessing: ImagePreprocessing) -> Backbone:
    if not network.changes:
        found = backbones.find(work.store, work.weights, work.recipe, preprocessing, work.project, work.children)
        return found[0]
    body = network.body.cpu().to(memory_format=torch.contiguous_format)
    return backbones.store_body(work.store, body, network.row, preprocessing, project=work.project, origin="trained")[0]
