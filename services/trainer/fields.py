"""What a preset is made of: fields with defaults, ranges, units and choices. It knows no preset."""

from dataclasses import dataclass

from handful.v1 import trainer_pb2
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality

Modalities = tuple["Modality.ValueType", ...]
PICTURES: Modalities = (MODALITY_IMAGE,)
BOTH: Modalities = (MODALITY_IMAGE, MODALITY_SOUND)


@dataclass(frozen=True)
class Needs:
    """A field matters only where another, which stands before it, has one of some values; else it is `otherwise`."""

    field: str
    values: tuple[str, ...]
    otherwise: float | str


@dataclass(frozen=True)
class Field:
    """A field that a preset has. `choices` makes it a choice, a whole `default` a whole number."""

    name: str
    description: str
    default: float | int | str
    minimum: float = 0.0
    maximum: float = 0.0
    unit: str = ""
    choices: tuple[str, ...] = ()
    needs: Needs | None = None
    modalities: Modalities = BOTH
    # Whether its default is not written down, for workers of releases that had no such field and did just that.
    unwritten: bool = False

    @property
    def type(self) -> "trainer_pb2.RecipeField.Type.ValueType":
        if self.choices:
            return trainer_pb2.RecipeField.TYPE_CHOICE
        whole = isinstance(self.default, int)
        return trainer_pb2.RecipeField.TYPE_INTEGER if whole else trainer_pb2.RecipeField.TYPE_NUMBER


@dataclass(frozen=True)
class Preset:
    name: str
    description: str
    fields: tuple[Field, ...]
    modalities: Modalities = PICTURES

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)
