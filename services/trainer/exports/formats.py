"""The formats that versions are exported in: a table, and whether a version can be had in one. It builds none."""

from dataclasses import dataclass
from importlib.util import find_spec

from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality
from handful.v1.model_pb2 import ExportFormat
from services.trainer.records import ModelVersionRecord
from services.trainer.sound_architectures import modality

BOTH = (MODALITY_IMAGE, MODALITY_SOUND)
_HELD = {MODALITY_IMAGE: "pictures", MODALITY_SOUND: "sounds"}


@dataclass(frozen=True)
class Format:
    """A row of ListExportFormats; `built_with` is a package that the trainer needs for it beyond its own."""

    name: str
    title: str
    description: str
    needs: tuple[str, ...]
    max_abs_diff: float
    modalities: "tuple[Modality.ValueType, ...]" = BOTH
    same_classes: bool = True
    importable: bool = False
    built_with: str = ""

    def refusal(self, version: ModelVersionRecord | None = None) -> str:
        """Why a version, or any, cannot be had in it here; empty where it can."""
        if self.built_with and find_spec(self.built_with) is None:
            return f"This server has no {self.built_with}, which builds it; its extra of that name brings it."
        held = modality(version.recipe.architecture) if version else self.modalities[0]
        return "" if held in self.modalities else f"It cannot carry models of {_HELD[held]}."

    def check(self, version: ModelVersionRecord) -> None:
        """FailedPrecondition FORMAT_UNSUITABLE where the version cannot be had in it."""
        if refusal := self.refusal(version):
            raise FailedPrecondition(f"{version.name} cannot be exported as {self.name}. {refusal}", reason=UNSUITABLE)

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
        )


UNSUITABLE = "FORMAT_UNSUITABLE"
_ROWS = (
    Format(
        name="onnx",
        title="ONNX and PyTorch",
        description="The network as one ONNX graph, of pictures also as PyTorch code with its weights, with a script "
        "that predicts and tests itself. Handful takes it back.",
        needs=("Python 3.11 or newer, or anything else that runs ONNX",),
        max_abs_diff=1e-3,
        importable=True,
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
