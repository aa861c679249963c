"""A run followed to its end, and what came of it in words: a version, figures on other data, or why there is none."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handful import Client, Run
from handful.cli import findings, live
from handful.cli.tables import print_table
from handful.cli.wording import for_people
from handful.v1.bundle_pb2 import Evaluation, LabelSuspect, Resources
from handful.v1.trainer_pb2 import TrainingRun

INTERRUPTED = 130
SHOWN_SUSPECTS = 5
# Phases that took less are not worth a word.
SHOWN_SECONDS = 0.1


def follow_to_the_end(client: Client, run: Run, console: Console) -> int:
    """Shows the run as it goes, then its outcome; the exit code."""
    name = run.name.rpartition("/")[2]
    if run.training_run.HasField("estimated_seconds"):
        console.print(f"Such runs took {run.training_run.estimated_seconds:.0f} s.", highlight=False)
    if run.training_run.num_ahead:
        console.print(f"It is queued{behind(run.training_run)}; handful runs lists them.", highlight=False)
    if run.training_run.waits_for:
        console.print(f"[yellow]{escape(for_people(run.training_run.waits_for))}[/yellow]", highlight=False)
    try:
        ended = live.follow(run, console)
    except KeyboardInterrupt:
        console.print(f"The run goes on. Watch it: handful watch {name}   Stop it: handful cancel {name}")
        return INTERRUPTED
    if ended.state != TrainingRun.STATE_SUCCEEDED:
        console.print(f"[red]{state(ended)}[/red] {escape(ended.failure.message)}")
        return 1
    if ended.evaluated_model_version:
        show_evaluation(client, ended, console)
    else:
        _show_version(client, ended, console)
    return 0


def behind(run: TrainingRun) -> str:
    """` behind 2 others` of a run that is not the next; else nothing."""
    return f" behind {run.num_ahead} other{'s' if run.num_ahead > 1 else ''}" if run.num_ahead else ""


def state(run: TrainingRun) -> str:
    """`succeeded`, for people."""
    return TrainingRun.State.Name(run.state).removeprefix("STATE_").lower()


def show_evaluation(client: Client, ended: TrainingRun, console: Console) -> None:
    """How a version did on other data: the figures, and each class. What was left out was said on the way."""
    evaluation = client.evaluation(ended.evaluated_model_version, ended.dataset_version).evaluation
    console.print(
        f"[green]{ended.evaluated_model_version}[/green] on {ended.dataset_version}: {_right(evaluation, 'unseen')}"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("class", "examples", "precision", "recall", "f1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in evaluation.classes:
        figures = (f"{value:.3f}" for value in (one.precision, one.recall, one.f1))
        table.add_row(escape(one.label), str(one.num_examples), *figures)
    print_table(table, console)
    console.print("  ".join(f"{metric.name.removeprefix('val/')} {metric.value:.4f}" for metric in evaluation.metrics))


def _show_version(client: Client, ended: TrainingRun, console: Console) -> None:
    evaluation = client.evaluation(ended.model_version).evaluation
    accuracy = f", {_right(evaluation, 'validation')}" if evaluation.HasField("accuracy_interval") else ""
    console.print(f"[green]{ended.model_version}[/green]{accuracy}")
    for sentence in findings.sentences(evaluation):
        console.print(escape(sentence))
    if evaluation.HasField("cross_validation"):
        _show_suspects(client, ended, evaluation.cross_validation.label_suspects, console)
    if evaluation.HasField("resources"):
        console.print(_used(ended, evaluation.resources), highlight=False)
    console.print(next_step(client, ended.model_version))


def _right(evaluation: Evaluation, which: str) -> str:
    accuracy = next(metric.value for metric in evaluation.metrics if metric.name == "val/accuracy")
    num_examples = sum(one.num_examples for one in evaluation.classes)
    return f"{accuracy:.1%} of {num_examples} {which} examples right{_between(evaluation)}"


def _between(evaluation: Evaluation) -> str:
    if not evaluation.HasField("accuracy_interval"):
        return ""
    return f" (of all such examples {findings.percents(evaluation.accuracy_interval)})"


def _used(ended: TrainingRun, used: Resources) -> str:
    """How long it took, on what, and with how much memory; and how far off the estimate was."""
    seconds = (ended.finish_time.ToNanoseconds() - ended.start_time.ToNanoseconds()) / 1e9
    expected = f" ({ended.estimated_seconds:.1f} s expected)" if ended.HasField("estimated_seconds") else ""
    long = (one for one in used.phases if one.seconds >= SHOWN_SECONDS)
    phases = ", ".join(f"{live.PHASES.get(one.phase, one.phase)} {one.seconds:.1f} s" for one in long)
    memory = f"{used.peak_memory_bytes / 1e6:.0f} MB of memory"
    if used.peak_accelerator_bytes:
        memory += f" and {used.peak_accelerator_bytes / 1e6:.0f} MB of the accelerator's"
    return f"It took {seconds:.1f} s{expected}: {phases}; {memory} at most."


def _show_suspects(client: Client, ended: TrainingRun, suspects: Sequence[LabelSuspect], console: Console) -> None:
    if not suspects:
        return
    dataset = ended.dataset_version.partition("/versions/")[0]
    files = {one.content_sha256: one.filename for one in client.examples(dataset)}
    console.print("Labels that may be wrong, for you to look at:")
    for one in suspects[:SHOWN_SUSPECTS]:
        console.print(escape(f"  {findings.suspect(one, files)}"))
    if len(suspects) > SHOWN_SUSPECTS:
        console.print(f"  and {len(suspects) - SHOWN_SUSPECTS} more")


def next_step(client: Client, model_version: str) -> str:
    """What to do with a new version: predict with it, or have the alias point at it first."""
    full_name, _, number = model_version.partition("/versions/")
    name = full_name.rpartition("/")[2]
    model = next(one for one in client.models() if one.name == full_name)
    serving = {one.alias: one.version for one in model.aliases}.get("production")
    if serving == int(number):
        return f"It is {name}@production now. Next: handful predict {name} FILE"
    return f"{name}@production is still version {serving}. To serve this one: handful promote {name} {number}"
