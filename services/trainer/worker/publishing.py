"""From what was trained to a bundle in the store: written, read back by the serving code, compared, and only then named
to the trainer. A model whose stored form answers otherwise than the trained network is not published.
"""

from collections import Counter

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from handful.bundle import golden, manifest, neighbours
from handful.bundle.golden import MAX_DIFFERENCE
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import Backbone, Predictor, numerics, to_inputs, to_pixels
from handful.v1.bundle_pb2 import (
    BundleFile,
    ClassExamples,
    ErrorControl,
    Evaluation,
    ModelManifest,
    Neighbours,
    Parity,
)
from services.shared.objects import get_first
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker import plots
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.work import Trained, Work

# Pictures whose answers go with the model, for whoever loads it to check.
NUM_GOLDEN = 4
_COPYLEFT = (
    "The network was built by Ultralytics' code, whose licence is {}; Ultralytics says that models made with it are "
    "under the same. Read it before you give the model to others, or have them use it over a network."
)

_UNKNOWN_NOT_TOLD = (
    "Predictions of this model name a class whatever they are asked about; they never say `unknown`. That takes "
    f"training examples of at least {neighbours.NEAREST + 1} groups, such as recordings or speakers, and, where the "
    f"network itself was trained, {neighbours.MIN_HELD_OUT} validation examples."
)


class ParityFailed(Exception):
    """The stored model does not answer as the trained one."""


def publish(work: Work, trained: Trained, evaluation: Evaluation, control: ErrorControl | None = None) -> str:
    """Stores the bundle; the SHA-256 of its manifest."""
    files = {
        "head.safetensors": trained.head.to_bytes(),
        "evaluation.json": manifest.to_bytes(evaluation),
        golden.FILE: _golden(work, trained),
    }
    if _license(trained):
        work.notice("COPYLEFT", _COPYLEFT.format(_license(trained)))
    if trained.neighbours is None:
        work.notice("UNKNOWN_NOT_TOLD", _UNKNOWN_NOT_TOLD)
    else:
        files[neighbours.FILE] = trained.neighbours.to_bytes()
    files |= {f"plots/{name}.png": png for name, png in plots.draw(trained.examples.labels, evaluation).items()}
    parity = _check(work, trained, files["head.safetensors"])
    data = manifest.to_bytes(_describe(work, trained, files, parity, control))
    digest = manifest.sha256(data)
    for path, content in files.items():
        work.store.put(manifest.bundle_key(work.project, digest, path), content)
    # The manifest last: where it is, all of the bundle is.
    work.store.put(manifest.bundle_key(work.project, digest, "manifest.json"), data)
    return digest


def _golden(work: Work, trained: Trained) -> bytes:
    """Pictures at the input size, the answers to them, and the first of them as the file it came from."""
    examples = trained.examples
    if trained.golden_pixels is None:
        files = {f"sound_{place}": np.frombuffer(data, np.uint8) for place, data in enumerate(_shown(work, trained))}
        return save(_contiguous(**files, probabilities=trained.golden_probabilities))
    picture = examples.data(work.store, (examples.val or examples.train)[0])
    if not np.array_equal(to_pixels(picture, trained.backbone.preprocessing), trained.golden_pixels[0]):
        raise ParityFailed("A picture read again has other pixels than training had. Nothing was published.")
    return save(
        _contiguous(
            picture=np.frombuffer(picture, dtype=np.uint8),
            pixels=trained.golden_pixels,
            probabilities=trained.golden_probabilities,
        )
    )


def _shown(work: Work, trained: Trained) -> list[bytes]:
    """The examples whose answers go with the model, as files."""
    examples = trained.examples
    return [examples.data(work.store, one) for one in (examples.val or examples.train)[:NUM_GOLDEN]]


def _contiguous(**arrays: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _check(work: Work, trained: Trained, stored_head: bytes) -> Parity:
    graph_keys = manifest.graph_keys(work.project, trained.backbone)
    graph = get_first(work.store, graph_keys, trained.backbone.graph_sha256)
    head = LinearHead.from_bytes(trained.described, stored_head)
    backbone = Backbone(graph)
    if trained.golden_pixels is None:
        inputs = [to_inputs(data, trained.backbone) for data in _shown(work, trained)]
        answers = head.probabilities(np.concatenate([backbone.of(one) for one in inputs]))
    else:
        predictor = Predictor(trained.examples.labels, trained.backbone.preprocessing, backbone, head)
        answers = predictor.probabilities(trained.golden_pixels)
    difference = float(np.abs(answers - trained.golden_probabilities).max())
    if not difference <= MAX_DIFFERENCE:
        raise ParityFailed(
            f"The stored model's probabilities differ from the trained network's by {difference:.1e}; "
            f"{MAX_DIFFERENCE:.0e} is allowed. Nothing was published."
        )
    return Parity(num_examples=len(answers), max_abs_diff=difference, bound=MAX_DIFFERENCE)


def _describe(
    work: Work, trained: Trained, files: dict[str, bytes], parity: Parity, control: ErrorControl | None
) -> ModelManifest:
    return ModelManifest(
        format=manifest.MODEL_FORMAT if trained.neighbours is None else manifest.COARSE_MODEL_FORMAT,
        modality=trained.examples.modality,
        labels=trained.examples.labels,
        backbone=trained.backbone,
        head=trained.described,
        recipe=work.recipe,
        dataset_manifest_sha256=work.claim.dataset_manifest_sha256,
        earlier_dataset_manifest_sha256s=work.claim.earlier_dataset_manifest_sha256s,
        files=[
            BundleFile(path=path, sha256=manifest.sha256(content), size_bytes=len(content))
            for path, content in sorted(files.items())
        ],
        numerics=numerics(trained.backbone),
        notices=work.notices,
        parity=parity,
        examples=_counts(trained.examples),
        neighbours=_neighbours(trained),
        license=_license(trained),
        error_control=control,
    )


def _license(trained: Trained) -> str:
    row = ARCHITECTURES.get(trained.backbone.architecture)  # none of those for sounds
    return "" if row is None else row.code_license


def _neighbours(trained: Trained) -> Neighbours | None:
    known = trained.neighbours
    return None if known is None else Neighbours(nearest=known.nearest, max_distance=known.max_distance)


def _counts(examples: Examples) -> list[ClassExamples]:
    train, val = Counter(targets(examples.train).tolist()), Counter(targets(examples.val).tolist())
    return [ClassExamples(num_train=train[index], num_val=val[index]) for index in range(len(examples.labels))]
