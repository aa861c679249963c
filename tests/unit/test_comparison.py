"""What `handful compare` shows of recipes: what tells runs apart, and nothing that the preset says already."""

import pytest

from handful.cli.compare import FIGURES, show
from handful.recipe import recipe
from handful.v1.trainer_pb2 import ComparedTrainingRun, CompareTrainingRunsResponse, TrainingRun
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.comparing import differing_fields
from services.trainer.recipes import resolve


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ([{"preset": "fast"}, {"preset": "baseline"}], ["num_epochs"]),
        ([{"regularization_c": 2}, {}, {"preset": "baseline"}], ["num_epochs", "regularization_c"]),
        ([{"views": 2}, {}], ["views"]),
        ([{"preset": "quality"}, {"preset": "baseline"}], ["num_epochs"]),
        ([{}, {}], []),
    ],
    ids=str,
)
def test_what_tells_runs_apart_is_shown(
    asked: list[dict[str, object]], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fields that differ between runs that have them, or between runs of one preset; never all that a preset lacks."""
    recipes = [resolve(recipe(one), DEFAULT_ARCHITECTURE) for one in asked]
    runs = [ComparedTrainingRun(training_run=TrainingRun(recipe=one)) for one in recipes]
    show(CompareTrainingRunsResponse(training_runs=runs, differing_fields=differing_fields(recipes)))
    header = capsys.readouterr().out.splitlines()[0].split("\t")
    assert header == ["data", "preset", "architecture", *shown, *FIGURES, "model", "run"]
