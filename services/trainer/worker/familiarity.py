"""What a model keeps of its training examples, to tell what is like none of them and to name the nearest."""

from handful.bundle import neighbours
from handful.bundle.heads import Floats
from handful.bundle.neighbours import Named, Neighbours
from services.trainer.worker.examples import Examples, targets


def of_frozen(examples: Examples, rows: Floats) -> Neighbours | None:
    """By features float32[n, width] of the training examples, of a body that was not trained on them: how far new ones
    are is told by how far they are from each other. None where there are too few.
    """
    named = Named.of([one.content_sha256 for one in examples.train], targets(examples.train))
    return neighbours.fit(rows, [one.group for one in examples.train], named)


def of_trained(examples: Examples, rows: Floats, val_rows: Floats) -> Neighbours | None:
    """By features of a body that was trained on the training examples, and so may have drawn them together: how far new
    ones are is told by the validation examples too. None where there are too few of either.
    """
    known = of_frozen(examples, rows)
    return None if known is None else neighbours.widened(known, val_rows)
