"""From a bundle to a zip in the store, or to the one that is there. It is for a limited process: it opens graphs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from handful.bundle import golden, images, recordings, runtime, sounds
from handful.bundle.golden import Golden
from handful.bundle.heads import Floats
from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition, HandfulError
from services.shared.objects import ObjectCorrupt, ObjectMissing, ObjectStore
from services.trainer import architectures
from services.trainer.exports import archive, card, contents, intermediate
from services.trainer.exports.bundle import Bundle, Unreadable
from services.trainer.exports.formats import FORMATS, Format
from services.trainer.exports.nearness import Nearness

SOURCES = {".html", ".json", ".mjs", ".py", ".txt"}


@dataclass(frozen=True)
class Export:
    """A zip: its format, its bytes' hash and number, and how near it comes to the stored answers."""

    format: str
    sha256: str
    size_bytes: int
    num_golden: int
    top1_agreement: float
    max_abs_diff: float


def fetch(store: ObjectStore, project: str, manifest_sha256: str, wanted: str, path: Path) -> Export:
    """Writes a bundle in a format, by its name, to the path, built and stored where it was not. FailedPrecondition
    EXPORT_DISAGREES where it answers otherwise than the model, by more than the format may.
    """
    key = f"projects/{project}/exports/{manifest_sha256}/{exporter()}/{wanted}"
    try:
        known = Export(**json.loads(store.get(f"{key}.json")))
        path.write_bytes(store.get(f"{key}.zip", known.sha256))
    except (ObjectMissing, ObjectCorrupt, TypeError, ValueError):  # what can be made again is made again
        known = _build(Bundle.read(store, project, manifest_sha256), FORMATS[wanted], path)
        store.put(f"{key}.zip", path.read_bytes())
        # Last: where it is, the zip is.
        store.put(f"{key}.json", json.dumps(asdict(known)).encode())
    return known


def _build(bundle: Bundle, wanted: Format, path: Path) -> Export:
    # Before a graph is opened that is too large for it: what memory that takes is refused in other words.
    _bound(len(bundle.graph) + len(bundle.weights))
    files, measured = make(bundle, wanted)
    _bound(sum(map(len, files.values())))
    archive.write(path, files)
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Export(wanted.name, digest, path.stat().st_size, **vars(measured))


def make(bundle: Bundle, wanted: Format) -> tuple[dict[str, bytes], Nearness]:
    """The files of an export, by their names in the zip, and how near it is. FailedPrecondition EXPORT_DISAGREES."""
    try:
        tried = Golden.from_bytes(bundle.files[golden.FILE], bundle.model.backbone)
        files = contents.make(bundle, wanted)
        measured = _near(tried, wanted, files)
        _check(wanted, measured)
        return {**files, **card.write(bundle, wanted, measured, list(files))}, measured
    except (HandfulError, MemoryError, OSError):
        raise
    except Exception as problem:
        raise Unreadable("this bundle") from problem  # what its bytes make numpy, onnx and the others raise


def _check(wanted: Format, measured: Nearness) -> None:
    same = measured.top1_agreement == 1 or not wanted.same_classes
    if same and measured.max_abs_diff <= wanted.max_abs_diff:
        return
    raise FailedPrecondition(
        f"The export as {wanted.name} disagrees with the model: probabilities differ by {measured.max_abs_diff:.1e}, "
        f"where at most {wanted.max_abs_diff:.0e} may be, and {measured.flips} of {measured.num_golden} best classes "
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


def _near(tried: Golden, wanted: Format, files: Mapping[str, bytes]) -> Nearness:
    """How near the export's answers to the golden pictures or sounds are to the stored ones, one at a time."""
    with wanted.suits():
        answer = _of_onnx(files["model.onnx"]) if "model.onnx" in files else intermediate.network(files)
        answers = np.concatenate(list(map(answer, tried.inputs)))
    return Nearness.of(answers, tried.probabilities)


def _of_onnx(graph: bytes) -> Callable[[Inputs], Floats]:
    session = runtime.session(graph)

    def answer(inputs: Inputs) -> Floats:
        probabilities: Floats = runtime.run(session, ["probabilities"], inputs)[0]
        return probabilities

    return answer


@cache
def exporter() -> str:
    """Which code exports: SHA-256 over its sources, lower-case hex. Other code may write other bytes."""
    sources = [path for path in Path(__file__).parent.rglob("*") if path.suffix in SOURCES]
    catalogue = Path(architectures.__file__)
    digest = hashlib.sha256()
    carried = [Path(str(each.__file__)) for each in (images, recordings, sounds)]
    rows = [
        catalogue,
        *(
            catalogue.with_name(name)
            for name in ("architectures.json", "quantizing.py", "sound_architectures.py", "weights.lock.json")
        ),
    ]
    for path in sorted([*sources, *carried, *rows]):
        digest.update(f"{path.name} ".encode() + path.read_bytes())
    return digest.hexdigest()
