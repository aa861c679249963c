"""The formats that versions are exported in: a table, and whether a version can be had in one. It builds none."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from handful.errors import FailedPrecondition, HandfulError, InvalidArgument
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, MODALITY_IMAGE, MODALITY_SOUND, Modality
from handful.v1.model_pb2 import ExportFormat
from services.trainer.records import ModelVersionRecord
from services.trainer.sound_architectures import modality

BOTH = (MODALITY_IMAGE, MODALITY_SOUND)
_HELD = {MODALITY_IMAGE: "pictures", MODALITY_SOUND: "sounds"}


@dataclass(frozen=True)
class Bound:
    """How far answers to validation examples may be from the model's, and the least share of the same best classes; one
    may always be another, since of few examples that is already a large share.
    """

    max_abs_diff: float
    agreement: float

    def most_flips(self, num: int) -> int:
        """How many best classes of so many may be others."""
        return max(1, math.floor((1 - self.agreement) * num))


@dataclass(frozen=True)
class Format:
    """A row of ListExportFormats. `built_with` is a package that the trainer needs for it beyond its own; those with a
    bound `in_fewer_bits` are made of networks in 32-bit floats alone, and tried on more than golden inputs.
    """

    name: str
    title: str
    description: str
    needs: tuple[str, ...]
    max_abs_diff: float
    modalities: "tuple[Modality.ValueType, ...]" = BOTH
    same_classes: bool = True
    importable: bool = False
    built_with: str = ""
    in_fewer_bits: Bound | None = None

    def refusal(self, version: ModelVersionRecord | None = None) -> str:
        """Why a version, or any, cannot be had in it here; empty where it can."""
        if self.built_with and find_spec(self.built_with) is None:
            return f"This server has no {self.built_with}, which builds it; its extra of that name brings it."
        if self.in_fewer_bits and version and version.recipe.backbone_precision == BACKBONE_PRECISION_INT8:
            return "The model's network is in 8-bit integers already."
        held = modality(version.recipe.architecture) if version else self.modalities[0]
        return "" if held in self.modalities else f"It cannot carry models of {_HELD[held]}."

    def check(self, version: ModelVersionRecord) -> None:
        """FailedPrecondition FORMAT_UNSUITABLE where the version cannot be had in it."""
        if refusal := self.refusal(version):
            raise FailedPrecondition(
                f"{version.name} cannot be exported as {self.name}. {refusal}", reason="FORMAT_UNSUITABLE"
            )

    @property
    def promise_refusal(self) -> str:
        """Why no share of wrong answers is promised of it; empty where one is, if the model can."""
        if self.in_fewer_bits is None:
            return ""
        others = f"{1 - self.in_fewer_bits.agreement:.0%} of the best classes, or one,"
        return (
            f"in fewer bits up to {others} may be others than the model's, whose answers were measured. The format "
            f"{DEFAULT} promises what the model does."
        )

    @contextmanager
    def suits(self) -> Iterator[None]:
        """FailedPrecondition FORMAT_UNSUITABLE for whatever its libraries raise of a network. Want of memory and of
        room on disk goes through.
        """
        try:
            yield
        except (HandfulError, MemoryError, OSError):
            raise
        except Exception as problem:
            message = f"This model's network has parts that the format {self.title} does not know."
            raise FailedPrecondition(message, reason="FORMAT_UNSUITABLE") from problem

    def message(self, version: ModelVersionRecord | None) -> ExportFormat:
        return ExportFormat(
            name=self.name,
            title=self.title,
            description=self.description,
            needs=self.needs,
            modalities=self.modalities,
            max_abs_diff=self.max_abs_diff,
            same_classes=self.same_classes,
            importable=self.importable,
            refusal=self.refusal(version),
            examples_max_abs_diff=self.in_fewer_bits.max_abs_diff if self.in_fewer_bits else 0,
            examples_min_agreement=self.in_fewer_bits.agreement if self.in_fewer_bits else 0,
        )


_PYTHON = ("Python 3.11 or newer, or anything else that runs ONNX",)
_ROWS = (
    Format(
        name="onnx",
        title="ONNX and PyTorch",
        description="The network as one ONNX graph, with a script that predicts and tests itself; one network of "
        "pictures, in floats, also as PyTorch code with its weights. Handful takes it back.",
        needs=_PYTHON,
        max_abs_diff=1e-3,
        importable=True,
    ),
    Format(
        name="onnx-fp16",
        title="ONNX in 16 bits",
        description="The network as an ONNX graph of half the size, in 16-bit floats, with a script that predicts and "
        "tests itself. It is for devices that compute in them; on most processors it is no faster.",
        needs=_PYTHON,
        max_abs_diff=0.01,
        in_fewer_bits=Bound(0.03, 0.98),
    ),
    Format(
        name="onnx-int8",
        title="ONNX in 8 bits",
        description="The network as an ONNX graph of a quarter of the size, in 8-bit integers, with a script that "
        "predicts and tests itself. It is faster where the network is made of convolutions with ReLU, as "
        "efficientnet_lite0 is.",
        needs=_PYTHON,
        max_abs_diff=0.1,
        in_fewer_bits=Bound(0.3, 0.95),
    ),
    Format(
        name="openvino",
        title="OpenVINO",
        description="The network as OpenVINO's intermediate representation, for processors of Intel and ARM, with a "
        "script that predicts and tests itself.",
        needs=("Python 3.11 or newer, or anything else that runs OpenVINO 2026.4",),
        max_abs_diff=1e-3,
        built_with="openvino",
    ),
    Format(
        name="browser",
        title="A page for browsers",
        description="A page that says what a file or the camera shows, on the device itself, and the same as a script "
        "for Node. It runs the network by ONNX Runtime Web, which it takes from jsDelivr or from beside it.",
        needs=("A browser of 2023 or newer and any web server, or Node 18.17 or newer",),
        max_abs_diff=1e-3,
        modalities=(MODALITY_IMAGE,),
    ),
)
FORMATS = {one.name: one for one in _ROWS}
DEFAULT = _ROWS[0].name


def named(name: str) -> Format:
    """The format of that name, the default one where it is empty. InvalidArgument where there is none."""
    found = FORMATS.get(name or DEFAULT)
    if found is None:
        raise InvalidArgument.fields([("format", f"must be one of {', '.join(FORMATS)}")])
    return found
