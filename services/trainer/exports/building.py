"""From a bundle to a zip in the store, or to the one that is there. It is for a limited process: it opens graphs."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from handful import recipe
from handful.bundle import golden, runtime
from handful.bundle.golden import Golden
from handful.bundle.heads import Floats
from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition, HandfulError
from services.shared.objects import ObjectCorrupt, ObjectMissing, ObjectStore, StoreUnavailable
from services.trainer import architectures
from services.trainer.exports import archive, card, contents, intermediate, unseen
from services.trainer.exports.bundle import Bundle, Unreadable
from services.trainer.exports.formats import FORMATS, Format
from services.trainer.exports.nearness import Nearness

SOURCES = {".html", ".json", ".mjs", ".py", ".txt"}
# So long the model answers validation examples, and so long the export; of a network that takes a second for each they
# are fewer.
COMPARING_SECONDS = 10.0


@dataclass(frozen=True)
class Export:
    """A zip: its format, its bytes' hash and number, and how near it comes to the stored answers, and to the model's
    own on validation examples, where it was tried on any.
    """

    format: str
    sha256: str
    size_bytes: int
    num_golden: int
    top1_agreement: float
    max_abs_diff: float
    num_examples: int = 0
    examples_top1_agreement: float = 0
    examples_max_abs_diff: float = 0


def fetch(store: ObjectStore, project: str, manifest_sha256: str, wanted: str, path: Path) -> Export:
    """Writes a bundle in a format, by its name, to the path, built and stored where it was not. FailedPrecondition
    EXPORT_DISAGREES where it answers otherwise than the model, by more than the format may.
    """
    key = f"projects/{project}/exports/{manifest_sha256}/{exporter()}/{wanted}"
    try:
        known = Export(**json.loads(store.get(f"{key}.json")))
        path.write_bytes(store.get(f"{key}.zip", known.sha256))
    except (ObjectMissing, ObjectCorrupt, TypeError, ValueError):  # what can be made again is made again
        bundle, how = Bundle.read(store, project, manifest_sha256), FORMATS[wanted]
        known = _build(bundle, how, path, unseen.read(store, project, bundle) if how.in_fewer_bits else ())
        store.put(f"{key}.zip", path.read_bytes())
        # Last: where it is, the zip is.
        store.put(f"{key}.json", json.dumps(asdict(known)).encode())
    return known


def _build(bundle: Bundle, wanted: Format, path: Path, examples: Iterable[Inputs]) -> Export:
    # Before a graph is opened that is too large for it: what memory that takes is refused in other words.
    _bound(len(bundle.graph) + len(bundle.weights))
    files, near = make(bundle, wanted, examples)
    _bound(sum(map(len, files.values())))
    archive.write(path, files)
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    figures = [figure for one in near for figure in vars(one).values()]
    return Export(wanted.name, digest, path.stat().st_size, *figures)


def make(bundle: Bundle, wanted: Format, examples: Iterable[Inputs] = ()) -> tuple[dict[str, bytes], list[Nearness]]:
    """The files of an export, by their names in the zip, and how near it is on golden inputs and, of what is in fewer
    bits, on examples where there are any. FailedPrecondition EXPORT_DISAGREES.
    """
    try:
        tried = Golden.from_bytes(bundle.files[golden.FILE], bundle.model.backbone)
        merged = contents.merged(bundle)
        # Before there is another: two sessions at once may be more than memory allows.
        shown, models = _shown(merged, examples) if wanted.in_fewer_bits else ([], [])
        files = contents.make(bundle, wanted, merged)
        with wanted.suits():
            answer = _answering(files)
            near = [Nearness.of(np.concatenate(list(map(answer, tried.inputs))), tried.probabilities)]
        _check(wanted, near[0], wanted.max_abs_diff, 0 if wanted.same_classes else near[0].num)
        if wanted.in_fewer_bits and models:
            near.append(_compared(answer, shown, models))
            _check(wanted, near[1], wanted.in_fewer_bits.max_abs_diff, wanted.in_fewer_bits.most_flips(near[1].num))
        return {**files, **card.write(bundle, wanted, near, list(files))}, near
    except (HandfulError, MemoryError, OSError, StoreUnavailable):
        raise
    except Exception as problem:
        raise Unreadable("this bundle") from problem  # what its bytes make numpy, onnx and the others raise


def _check(wanted: Format, near: Nearness, max_abs_diff: float, most_flips: int) -> None:
    if near.flips <= most_flips and near.max_abs_diff <= max_abs_diff:
        return
    raise FailedPrecondition(
        f"The export as {wanted.name} disagrees with the model: probabilities differ by {near.max_abs_diff:.1e}, "
        f"where at most {max_abs_diff:.0e} may be, and {near.flips} of {near.num} best classes "
        "are others. Nothing was exported.",
        reason="EXPORT_DISAGREES",
    )


def _bound(num_bytes: int) -> None:
    if num_bytes > archive.MAX_BYTES:
        raise FailedPrecondition(
            f"The export would have {num_bytes / 1e9:.1f} GB, with its network as ONNX and for PyTorch; at most "
            f"{archive.MAX_BYTES / 1e9:.1f} GB are made.",
            reason="LIMITS_EXCEEDED",
        )


Answering = Callable[[Inputs], Floats]


def _answering(files: Mapping[str, bytes]) -> Answering:
    """What the export answers to one input."""
    return _of_onnx(files["model.onnx"]) if "model.onnx" in files else intermediate.network(files)


def _shown(merged: bytes, examples: Iterable[Inputs]) -> tuple[list[Inputs], list[Floats]]:
    """Examples, as many as there is time for, and what the model answers to each."""
    model, shown, models = _of_onnx(merged), list[Inputs](), list[Floats]()
    until = time.monotonic() + COMPARING_SECONDS
    for one in examples:
        shown.append(one)
        models.append(model(one))
        if time.monotonic() > until:
            break
    return shown, models


def _compared(export: Answering, shown: list[Inputs], models: list[Floats]) -> Nearness:
    answers = list[Floats]()
    until = time.monotonic() + COMPARING_SECONDS
    for one in shown:
        answers.append(export(one))
        if time.monotonic() > until:
            break
    return Nearness.of(np.concatenate(answers), np.concatenate(models[: len(answers)]))


def _of_onnx(graph: bytes) -> Answering:
    session = runtime.session(graph)

    def answer(inputs: Inputs) -> Floats:
        probabilities: Floats = runtime.run(session, ["probabilities"], inputs)[0]
        return probabilities

    return answer


@cache
def exporter() -> str:
    """Which code exports: SHA-256 over its sources, lower-case hex. Other code may write other bytes."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.name} ".encode() + path.read_bytes())
    return digest.hexdigest()


def sources() -> list[Path]:
    """What an export is made by: all here, what is computed or carried of bundles, and the catalogue."""
    here = [path for path in Path(__file__).parent.rglob("*") if path.suffix in SOURCES]
    bundled = [Path(recipe.__file__), *Path(golden.__file__).parent.glob("*.py")]
    catalogue = Path(architectures.__file__)
    beside = ("architectures.json", "learnt.py", "quantizing.py", "sound_architectures.py", "weights.lock.json")
    return sorted([*here, *bundled, catalogue, *map(catalogue.with_name, beside)])
