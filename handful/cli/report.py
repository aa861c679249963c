"""`handful report RUN`: what came of a run on one HTML page that needs nothing else. What stands on it is gathered here
and written by `report_page.py`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from handful import Client, Run
from handful.cli import report_page
from handful.cli.commands import console, find_run
from handful.cli.outcome import state
from handful.errors import FailedPrecondition, HandfulError
from handful.v1.bundle_pb2 import Evaluation
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent

MAX_PICTURES = 100
# On a page, in pixels; twice as fine as they are shown.
SIDE = 192


def run(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        found = find_run(client, given.run, trained=True, succeeded=True)
        report = gathered(client, found)
        file = given.out or _file(report)
        file.write_text(report_page.html(report), encoding="utf-8")
    console.print(escape(f"The report is {file}"))
    return 0


def _file(report: report_page.Report) -> Path:
    """`flowers-1.html`; of a measurement on other data the run's id."""
    if report.run.evaluated_model_version:
        return Path(f"{report.run.name.rpartition('/')[2]}.html")
    model, _, number = report.model_version.rpartition("/models/")[2].partition("/versions/")
    return Path(f"{model}-{number}.html")


def gathered(client: Client, found: Run) -> report_page.Report:
    """All that is known of a run that succeeded; FailedPrecondition for any other."""
    ended = found.training_run
    if ended.state != TrainingRun.STATE_SUCCEEDED:
        over = ended.state in (TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
        then = ended.failure.message if over else f"Watch it: handful watch {ended.name.rpartition('/')[2]}"
        raise FailedPrecondition(f"There is no report of {ended.name}: it is {state(ended)}. {then}".rstrip())
    events = [message for message in found.watch() if isinstance(message, TrainingRunEvent)]
    version, measured_on = ended.model_version, ""
    if ended.evaluated_model_version:
        version, measured_on = ended.evaluated_model_version, ended.dataset_version
    answer = client.evaluation(version, measured_on)
    pictures, names, missing = _shown(client, ended.dataset_version.partition("/versions/")[0], answer.evaluation)
    return report_page.Report(
        run=ended,
        model_version=version,
        evaluation=answer.evaluation,
        plots={plot.name: plot.png for plot in answer.plots},
        notices=[*noted(events), *missing],
        pictures=pictures,
        names=names,
    )


def noted(events: Sequence[TrainingRunEvent]) -> list[str]:
    """What was not done as plainly as asked, in sentences; of one reason what the last attempt said that gave it."""
    told: dict[str, tuple[int, list[str]]] = {}
    for event in events:
        if event.HasField("notice"):
            attempt, sentences = told.get(event.notice.reason, (event.attempt, []))
            sentences = sentences if attempt == event.attempt else []
            told[event.notice.reason] = event.attempt, list(dict.fromkeys([*sentences, event.notice.message]))
    return [sentence for _, sentences in told.values() for sentence in sentences]


def _shown(client: Client, dataset: str, evaluation: Evaluation) -> tuple[dict[str, bytes], dict[str, str], list[str]]:
    """Of the examples that the page names, by content: pictures as JPEG files, and file names; and in sentences what of
    that could not be had, without which there is a report all the same.
    """
    contents = [one.content_sha256 for one in evaluation.wrong_answers]
    contents += [one.content_sha256 for one in evaluation.cross_validation.label_suspects]
    wanted = list(dict.fromkeys(contents))[:MAX_PICTURES]
    if not wanted:
        return {}, {}, []
    try:
        found = client.thumbnails(dataset, wanted, SIDE)
        # Sounds have no pictures; what they are called stands with the examples.
        named = found.values() if found else (one for one in client.examples(dataset) if one.content_sha256 in wanted)
        names = {one.content_sha256: one.filename for one in named}
    except HandfulError as problem:
        return {}, {}, [f"The examples could not be had, so they have no names and no pictures here: {problem.message}"]
    lost = [f"{one.filename} has no picture here: {one.problem}" for one in found.values() if one.problem]
    return {content: one.jpeg for content, one in found.items() if one.jpeg}, names, lost
