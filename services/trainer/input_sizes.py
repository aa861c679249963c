"""How pictures come to networks, and how large: the rows of the catalogue as recipes ask for them, and what sizes a
recipe may ask for.
"""

from dataclasses import replace

from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, ImagePreprocessing, Recipe
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.choices import listed

# Networks halve a picture's sides up to five times; and the fewer sizes, the more models share a backbone.
STEP = 32


def row(recipe: Recipe) -> ArchitectureRow:
    """The architecture that a recipe names, as pictures come to it: its own size, or the recipe's. What the catalogue
    says of its cost is said of its own.
    """
    own = ARCHITECTURES[recipe.architecture]
    return at(own, recipe.input_size) if recipe.input_size else own


def at(own: ArchitectureRow, size: int) -> ArchitectureRow:
    """An architecture that sees the same part of each picture at another size."""
    how = own.preprocessing
    if size == how.size:
        return own
    resize, draft = (round(side * size / how.size) for side in (how.resize, how.draft))
    scaled = ImagePreprocessing(fit=how.fit, size=size, resize=resize, filter=how.filter, draft=draft)
    return replace(own, preprocessing=scaled)


def preprocessing(recipe: Recipe, *, textbook: bool = False) -> ImagePreprocessing:
    """How pictures come to the network that a recipe names: as its weights were trained, or squashed where the recipe
    says so. A textbook squashes unless told otherwise, with a filter of its own.
    """
    own = row(recipe).preprocessing
    squash, cropped = ImagePreprocessing.FIT_SQUASH, ImagePreprocessing.FIT_CENTER_CROP
    if textbook and recipe.fit != cropped:
        return ImagePreprocessing(fit=squash, size=own.size, filter="bilinear")
    if textbook or recipe.fit != squash:
        return own
    return ImagePreprocessing(fit=squash, size=own.size, filter=own.filter, draft=own.draft)


def settle(recipe: Recipe) -> list[tuple[str, str]]:
    """What is wrong with the size that a recipe asks for. An architecture's own is not written down."""
    own = ARCHITECTURES.get(recipe.architecture)
    if own is None or recipe.input_size == own.preprocessing.size:
        recipe.ClearField("input_size")  # of networks for sounds it is refused where the data is known
    problem = _problem(recipe, own) if own and recipe.input_size else ""
    return [("recipe.input_size", problem)] if problem else []


def _problem(recipe: Recipe, own: ArchitectureRow) -> str:
    least, most, size = own.min_input_size, own.max_input_size, recipe.input_size
    usual = f"must be 0 or {own.preprocessing.size}, not {size}"
    if own.members:
        names = listed([one.id for one in own.members])
        return f"{usual}: {own.id} is networks with sizes of their own side by side; take one of {names}"
    if least == most:
        others = "ListArchitectures says which architectures take others"
        return f"{usual}: {own.id} knows places in pictures of that size alone; {others}"
    if recipe.backbone_precision == BACKBONE_PRECISION_INT8:
        return f"{usual}: backbone_precision INT8 is there at that size alone; take FLOAT32"
    if size % STEP or not least <= size <= most:
        allowed = f"must be a multiple of {STEP} between {least} and {most}"
        return f"{allowed} with {own.id}, or 0 for its own, {own.preprocessing.size}; not {size}"
    return ""
