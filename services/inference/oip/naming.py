"""How the Open Inference Protocol names models: `flowers` with a version, in place of our whole names."""

from collections.abc import Sequence
from dataclasses import dataclass

from handful import names
from handful.errors import InvalidArgument

PROJECT = "projects/default"
# Behind a model's name: it takes pixels instead of files.
PIXELS = ".pixels"
_MODEL = "must be a model's id such as flowers, or projects/{project}/models/{model}, with @{alias} behind it if wanted"
_VERSION = "must be the number of a version, such as 1, or empty"


@dataclass(frozen=True)
class Asked:
    """A model as a request names it: `name` as it stands there, `resource` as we call it."""

    name: str
    resource: str
    pixels: bool

    @property
    def is_one(self) -> bool:
        """Whether it names one version, by its number or by an alias."""
        return "/versions/" in self.resource or "@" in self.resource


def asked(name: str, version: str, field: str = "name", version_field: str = "version") -> Asked:
    """The model that is meant; InvalidArgument naming the field where none can be."""
    resource = whole(name.removesuffix(PIXELS))
    parts = _match((names.MODEL, names.MODEL_ALIAS), resource, field, _MODEL)
    if version:
        if "alias" in parts:
            raise InvalidArgument.fields([(version_field, "must be empty where the name has an alias")])
        resource = f"{resource}/versions/{version}"
        _match((names.MODEL_VERSION,), resource, version_field, _VERSION)
    return Asked(name, resource, name.endswith(PIXELS))


def whole(name: str) -> str:
    """`flowers` as `projects/default/models/flowers`; a whole name as it is."""
    return name if name.startswith("projects/") else f"{PROJECT}/models/{name}"


def short(model: str) -> str:
    """The opposite: what to call a model, given its whole name."""
    return model.removeprefix(f"{PROJECT}/models/")


def apart(version: str) -> tuple[str, str]:
    """What to call the model of a version, given the version's whole name, and its number."""
    model, _, number = version.partition("/versions/")
    return short(model), number


def order(version: str) -> tuple[str, int]:
    """Sorts the names of versions by model and number."""
    model, number = apart(version)
    return model, int(number)


def _match(patterns: Sequence[str], resource: str, field: str, told: str) -> dict[str, str]:
    try:
        return names.match(patterns, resource, field)
    except InvalidArgument:
        raise InvalidArgument.fields([(field, told)]) from None
