"""A run as it goes, on a terminal: progress bars, a table of the latest epochs and a curve; plain lines elsewhere."""

import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from handful.errors import HandfulError
from handful.history import History
from handful.run import Run
from handful.v1 import trainer_pb2
from handful.v1.bundle_pb2 import EpochMetrics
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent

SHOWN_EPOCHS = 8
LINE_SECONDS = 0.5
PHASE_SECONDS = 2.0
CURVE_WIDTH = 60
CURVE_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"
_COLUMNS = ("train/loss", "val/loss", "val/accuracy", "val/f1_weighted")
_LOST = "connection lost: {} The run goes on; trying again ..."
_TO_NOTHING = (TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
# Phases of a run, as Progress names them, for people.
PHASES = {
    "loading": "loading examples",
    "weights": "downloading pretrained weights (once)",
    "graph": "preparing the network (once)",
    "features": "computing features",
    "choosing": "choosing an architecture",
    "validating": "cross-validating",
    "challenging": "fine-tuning a challenger, out of fold",
    "colours": "looking at colours and sizes",
    "fitting": "training",
    "publishing": "publishing",
}


def follow(run: Run, console: Console) -> TrainingRun:
    """Shows the run to its end; the run as it ended."""
    view = _View(run, console)
    if console.is_terminal:
        with Live(view.render(), console=console, refresh_per_second=8) as live:

            def lost(problem: HandfulError) -> None:
                view.reconnecting(problem)
                live.update(view.render())

            for message in run.watch(on_reconnect=lost):
                view.take(message)
                live.update(view.render())
            view.finish(run.training_run)
            live.update(view.render())
    else:
        for message in run.watch(on_reconnect=view.print_lost):
            view.take(message)
            view.print_line(message)
    return run.training_run


class _View:
    """What is known of the run so far, and how it looks."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._console = console
        self._history = History()
        self._state = TrainingRun.State.Name(run.training_run.state)
        self._notes: list[str] = []
        self._lost = ""
        self._over = False
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        ahead = run.training_run.num_ahead
        waiting = "waiting for a worker" + (f"; before it at first: {ahead}" if ahead else "")
        self._task = self._bars.add_task(waiting, total=None)
        self._phase = ""
        self._began = 0.0
        self._said = ""
        self._held: EpochMetrics | None = None
        self._last_epoch = 0.0

    def reconnecting(self, problem: HandfulError) -> None:
        self._lost = problem.message

    def finish(self, run: TrainingRun) -> None:
        self._state, self._over = TrainingRun.State.Name(run.state), True

    def take(self, message: TrainingRunEvent | trainer_pb2.Progress) -> None:
        self._lost = ""
        if isinstance(message, trainer_pb2.Progress):
            self._take_progress(message)
            return
        self._history.add(message)
        kind = message.WhichOneof("event")
        if kind == "state_changed":
            self._state = TrainingRun.State.Name(message.state_changed.state)
        elif kind == "attempt_started":
            self._notes.clear()
            last = message.attempt_started.resumed_after_epoch
            if message.attempt > 1:
                where = f"goes on after epoch {last}" if last else "begins anew"
                self._notes.append(f"a worker was lost or stopped; attempt {message.attempt} {where}")
            elif last:
                self._notes.append(f"goes on after epoch {last} of an earlier run")
            self._show_phase("starting", None)
        elif kind == "features_ready":
            ready = message.features_ready
            self._notes.append(f"features: {ready.features_computed} computed, {ready.features_cached} from the cache")
        elif kind == "notice":
            self._notes.append(message.notice.message)

    def print_lost(self, problem: HandfulError) -> None:
        """A lost connection as a line, once until it is there again."""
        if not self._lost:
            self._say(_LOST.format(problem.message))
        self.reconnecting(problem)

    def print_line(self, message: TrainingRunEvent | trainer_pb2.Progress) -> None:
        """A durable event, or work that begins, as a line, for logs and pipes."""
        if isinstance(message, trainer_pb2.Progress):
            self._print_phase()
            return
        kind = message.WhichOneof("event")
        if kind == "epoch_completed" and self._history.epochs:
            self._print_epoch(self._history.epochs[-1])
        elif kind == "state_changed":
            if self._held is not None:
                self._say(_line(self._held))
            if message.state_changed.state not in _TO_NOTHING:  # whoever follows says that, with the reason
                self._say(self._state.removeprefix("STATE_").lower())
        elif kind in {"attempt_started", "features_ready", "notice"} and self._notes:
            self._say(self._notes[-1])

    def _print_phase(self) -> None:
        # Only what takes a while is worth a line.
        slow = time.monotonic() - self._began > PHASE_SECONDS
        if slow and self._phase in PHASES and self._phase != self._said:
            self._said = self._phase
            self._say(f"{PHASES[self._phase]} ...")

    def _print_epoch(self, epoch: EpochMetrics) -> None:
        # A convex head passes a hundred epochs in a second; nobody reads them all. The last one is always said.
        self._held = epoch
        if epoch.epoch <= SHOWN_EPOCHS or time.monotonic() - self._last_epoch > LINE_SECONDS:
            self._held, self._last_epoch = None, time.monotonic()
            self._say(_line(epoch))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def render(self) -> RenderableType:
        epochs = self._history.epochs
        parts: list[RenderableType] = [self._title()] if self._over else [self._title(), self._bars]
        if epochs:
            parts += [_table(epochs[-SHOWN_EPOCHS:]), _curve(epochs)]
        parts += [Text(note, style="dim") for note in self._notes[-3:]]
        if self._lost:
            parts.append(Text(_LOST.format(self._lost), style="yellow"))
        return Group(*parts)

    def _title(self) -> Text:
        run, recipe = self._run.training_run, self._run.training_run.recipe
        state = self._state.removeprefix("STATE_").lower()
        model = run.model.rpartition("/")[2]
        return Text(f"{model}: {recipe.preset} on {recipe.architecture}, {state}", style="bold")

    def _take_progress(self, progress: trainer_pb2.Progress) -> None:
        if progress.phase != self._phase:
            self._phase, self._began = progress.phase, time.monotonic()
            self._show_phase(PHASES.get(progress.phase, progress.phase), progress.total or None)
        self._bars.update(self._task, total=progress.total or None, completed=progress.completed)

    def _show_phase(self, description: str, total: int | None) -> None:
        # A task keeps its total when it is reset; a new one does not.
        self._bars.remove_task(self._task)
        self._task = self._bars.add_task(description, total=total)


def _figures(epoch: EpochMetrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in epoch.metrics}


def _line(epoch: EpochMetrics) -> str:
    figures = _figures(epoch)
    shown = "  ".join(f"{name} {figures[name]:.4f}" for name in _COLUMNS if name in figures)
    return f"epoch {epoch.epoch:3d}  {shown}"


def _table(epochs: Iterable[EpochMetrics]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("epoch", *_COLUMNS):
        table.add_column(column, justify="right")
    for epoch in epochs:
        figures = _figures(epoch)
        table.add_row(str(epoch.epoch), *(f"{figures[name]:.4f}" if name in figures else "" for name in _COLUMNS))
    return table


def _curve(epochs: list[EpochMetrics]) -> Text:
    """The validation loss over the epochs, as a row of blocks that is several characters high."""
    values = [figures["val/loss"] for one in epochs if "val/loss" in (figures := _figures(one))]
    if len(values) < 2:  # noqa: PLR2004 - a point is no curve
        return Text("")
    step = max(1, -(-len(values) // CURVE_WIDTH))
    values = values[::step]
    top = max(values) or 1.0
    heights = [value / top * CURVE_HEIGHT for value in values]
    rows = [
        "".join(_BLOCKS[round(8 * min(1.0, max(0.0, height - level)))] for height in heights)
        for level in reversed(range(CURVE_HEIGHT))
    ]
    return Text(f"val/loss, 0 to {top:.4g}\n" + "\n".join(rows), style="cyan")
