"""Workers and trainers that are killed or frozen, by the dozen, and what must hold all the same.

Each campaign runs against a stack that is up, with real runs; AssertionError where a promise is broken. A few of each
are tests; `benchmarks/recovery.py` has them all.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from handful import Client, Run
from handful.channel import connect
from handful.cli.stack import Stack
from handful.errors import Unavailable
from handful.history import History
from handful.v1 import trainer_pb2
from handful.v1.trainer_pb2 import Failure, TrainingRun, TrainingRunEvent
from handful.v1.trainer_pb2_grpc import TrainerServiceStub
from services.trainer.attempts import MAX_LOST
from services.trainer.worker_servicer import LEASE_SECONDS
from tests.processes import of_home

# A checkpoint after each epoch, and epochs of a fraction of a second where there are few pictures.
RECIPE: dict[str, Any] = {"preset": "baseline", "target_size": 0}
RECOVERY_SECONDS = 20.0
# A zombie that is let go reports at once; this long it is watched.
HAUNTING_SECONDS = 5.0


class Story:
    """A run as someone sees it who watches it with the SDK."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.events: list[TrainingRunEvent] = []

    def follow(self, hear: Callable[[TrainingRunEvent], None] = lambda _: None) -> Story:
        """To the end of the run. Every event comes exactly once and in order, and the same as anyone gets later."""
        self.events = []
        for event in self.run.watch():
            if isinstance(event, TrainingRunEvent):
                self.events.append(event)
                hear(event)
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1)), self.run.name
        assert [event for event in self.run.watch() if isinstance(event, TrainingRunEvent)] == self.events
        return self

    @property
    def starts(self) -> list[TrainingRunEvent]:
        """The beginnings of its attempts."""
        return [event for event in self.events if event.HasField("attempt_started")]

    def epochs(self, attempt: int) -> list[int]:
        """The epochs that an attempt reported."""
        return [one.epoch for one in self.events if one.HasField("epoch_completed") and one.attempt == attempt]

    def check(self, state: TrainingRun.State.ValueType, epochs: int | None = None) -> None:
        """The run ended in a state, with so many epochs that count, each once; as many as there are, if not said."""
        run = self.run.training_run
        assert run.state == state, (run.name, TrainingRun.State.Name(run.state), run.failure)
        counted = [one.epoch for one in History(self.events).epochs]
        assert counted == list(range(1, (len(counted) if epochs is None else epochs) + 1)), run.name


def worker_pid(start: TrainingRunEvent) -> int:
    """The process of an attempt's worker."""
    return int(start.attempt_started.worker_id.split("-")[-2])


def seconds_between(event: TrainingRunEvent, time_before: float) -> float:
    return event.time.ToNanoseconds() / 1e9 - time_before


@dataclass
class Killing:
    """Kills the worker of every run at a random moment of its attempt; of every tenth so often that it is given up."""

    chance: Random
    attempt_seconds: float
    killed: dict[tuple[str, int], float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    epochs_lost: list[int] = field(default_factory=list)
    states: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def campaign(self, client: Client, dataset: str, runs: int, at_once: int, epochs: int) -> None:
        """Sees so many runs to their ends, some at once. A run that ends before its moment comes does not count."""

        def one(number: int) -> None:
            kills = MAX_LOST if number % 10 == 9 else 1
            story = Story(client.train(dataset, num_epochs=epochs, **RECIPE))
            self._one(story, epochs, kills)
            if all(run != story.run.name for run, _ in self.killed):
                one(number)
                return
            with self._lock:
                self.states[TrainingRun.State.Name(story.run.training_run.state).removeprefix("STATE_")] += 1

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, range(runs)))

    def _one(self, story: Story, epochs: int, kills: int) -> None:
        timers: list[threading.Timer] = []

        def hear(event: TrainingRunEvent) -> None:
            if event.HasField("attempt_started") and event.attempt <= kills:
                # One that shall be killed again and again is not given the time to finish.
                moment = self.chance.uniform(0, self.attempt_seconds / (1 if kills == 1 else 4))
                timers.append(threading.Timer(moment, self._kill, (story.run.name, event, story.run.refresh)))
                timers[-1].start()

        story.follow(hear)
        for timer in timers:
            timer.cancel()
            timer.join()
        self._judge(story, epochs)

    def _kill(self, run: str, start: TrainingRunEvent, refresh: Callable[[], TrainingRun]) -> None:
        with self._lock:
            # Stopped first: meanwhile it cannot finish this run and take another.
            os.kill(worker_pid(start), signal.SIGSTOP)
            now = refresh()
            at_it = now.state == TrainingRun.STATE_RUNNING and now.attempt == start.attempt
            if at_it:
                self.killed[run, start.attempt] = time.time()
                os.kill(worker_pid(start), signal.SIGKILL)
            else:
                os.kill(worker_pid(start), signal.SIGCONT)

    def _judge(self, story: Story, epochs: int) -> None:
        given_up = story.run.training_run.state == TrainingRun.STATE_FAILED
        lost = story.starts if given_up else story.starts[:-1]
        for start in lost:
            self._judge_loss(story, start)
        if given_up:
            failure = story.run.training_run.failure
            assert (len(lost), failure.reason) == (MAX_LOST, Failure.REASON_WORKER_LOST), (story.run.name, failure)
        else:
            assert len(lost) < MAX_LOST
            story.check(TrainingRun.STATE_SUCCEEDED, epochs)

    def _judge_loss(self, story: Story, start: TrainingRunEvent) -> None:
        where = (story.run.name, start.attempt)
        assert where in self.killed, f"{where} was lost, and nobody killed its worker"
        then = next((one for one in story.starts if one.attempt == start.attempt + 1), story.events[-1])
        seconds = seconds_between(then, self.killed[where])
        assert seconds <= RECOVERY_SECONDS, f"{where}: {seconds:.1f} s until the run went on"
        done = max([start.attempt_started.resumed_after_epoch, *story.epochs(start.attempt)])
        lost = done - then.attempt_started.resumed_after_epoch if then.HasField("attempt_started") else 0
        assert lost <= 1, f"{where}: {lost} epochs are done again"
        with self._lock:
            self.seconds.append(seconds)
            self.epochs_lost.append(lost)


def cut_power(stack: Stack, client: Client, dataset: str, epochs: int, moment: float) -> float:
    """Kills everything at once in the middle of a run, and starts it again: after how many seconds the run goes on."""
    story = Story(client.train(dataset, num_epochs=epochs, **RECIPE))
    begun = threading.Event()

    def hear(event: TrainingRunEvent) -> None:
        if event.HasField("epoch_completed"):
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(story.follow, hear)
        begun.wait()
        time.sleep(moment)
        for pid in of_home(stack.home):
            os.kill(pid, signal.SIGKILL)
        stack.stop()
        stack.start()
        up_again = time.time()
        following.result()
    story.check(TrainingRun.STATE_SUCCEEDED, epochs)
    _, second = story.starts
    assert max(story.epochs(attempt=1)) - second.attempt_started.resumed_after_epoch <= 1
    seconds = seconds_between(second, up_again)
    assert seconds <= RECOVERY_SECONDS, f"{story.run.name}: {seconds:.1f} s until the run went on"
    return seconds


def kill_trainers(
    stack: Stack, client: Client, dataset: str, away: Sequence[float], epochs: Sequence[int], chance: Random
) -> dict[str, int]:
    """Kills the trainer once for each of the times it stays away, under workers that each do one run after another, of
    as many epochs as is said for each; all are watched, through it all.
    """
    over = threading.Event()

    def watch(number: int) -> list[Story]:
        stories: list[Story] = []
        while not over.is_set():
            try:
                stories.append(Story(client.train(dataset, num_epochs=number, **RECIPE)))
            except Unavailable:
                time.sleep(1)
            else:
                stories[-1].follow().check(TrainingRun.STATE_SUCCEEDED, number)
                assert [start.attempt for start in stories[-1].starts] == [1], "the living worker did not go on"
        return stories

    with ThreadPoolExecutor(len(epochs)) as pool:
        watching = [pool.submit(watch, number) for number in epochs]
        for seconds in away:
            time.sleep(chance.uniform(0.5, 5))
            stack.restart("trainer", signal.SIGKILL, seconds)
        over.set()
        stories = [story for one in watching for story in one.result()]
    return {"runs": len(stories), "events": sum(len(story.events) for story in stories)}


def raise_zombies(
    stack: Stack, client: Client, dataset: str, zombies: int, at_once: int, epochs: int, chance: Random
) -> int:
    """Stops that many workers in the middle of a run for longer than their lease, and lets them go again while another
    works on the run, or when it has finished it. How often one tried to write and was refused, as their log has it.
    """

    def one(number: int) -> None:
        story = Story(client.train(dataset, num_epochs=epochs, **RECIPE))
        haunted, moment = number % 2 == 0, chance.randint(3, epochs // 2)

        def hear(event: TrainingRunEvent) -> None:
            if event.HasField("epoch_completed") and event.epoch == moment and event.attempt == 1:
                os.kill(worker_pid(story.starts[0]), signal.SIGSTOP)
            if event.HasField("epoch_completed") and event.attempt == 2 and haunted:
                os.kill(worker_pid(story.starts[0]), signal.SIGCONT)

        story.follow(hear)
        os.kill(worker_pid(story.starts[0]), signal.SIGCONT)
        time.sleep(HAUNTING_SECONDS)
        again = Story(client.run(story.run.name)).follow()
        assert again.events == story.events, "something was added to a run that is over"
        again.check(TrainingRun.STATE_SUCCEEDED, epochs)
        assert [start.attempt for start in again.starts] == [1, 2]
        late = [event for event in again.events[again.starts[1].sequence :] if event.attempt == 1]
        assert late == [], "a zombie was heard"
        assert seconds_between(again.starts[1], again.starts[0].time.ToNanoseconds() / 1e9) > LEASE_SECONDS

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(zombies)))
    told = (stack.home / "logs" / "trainer.log").read_text().splitlines()
    refused = sum("not taken by the trainer" in line and "LEASE_LOST" in line for line in told)
    assert refused >= zombies, f"only {refused} tried to write"
    return refused


def create_at_once(stack: Stack, dataset: str, calls: int) -> None:
    """Asks for a run so often at once under one request_id, and again after the trainer was killed. It is one."""
    request = trainer_pb2.CreateTrainingRunRequest(
        parent="projects/default", dataset=f"projects/default/datasets/{dataset}", request_id=str(uuid.uuid4())
    )
    with connect(stack.addresses.trainer) as channel:
        stub = TrainerServiceStub(channel)

        def create(_: int) -> str:
            return str(stub.CreateTrainingRun(request, timeout=60).training_run.name)

        with ThreadPoolExecutor(calls) as pool:
            names = set(pool.map(create, range(calls)))
        stack.restart("trainer", signal.SIGKILL)
        names.add(create(0))
        listed = stub.ListTrainingRuns(trainer_pb2.ListTrainingRunsRequest(parent="projects/default", page_size=1000))
        known = {run.name for run in listed.training_runs if run.state == TrainingRun.STATE_QUEUED}
    assert len(names) == 1, names
    assert known == names


def work_off(client: Client, dataset: str, runs: int, workers: int) -> list[int]:
    """Queues that many runs at once: how many each of the workers did, none of them in more than one attempt."""
    stories = [Story(client.train(dataset, preset="fast")) for _ in range(runs)]
    done: defaultdict[str, int] = defaultdict(int)
    for story in stories:
        story.follow().check(TrainingRun.STATE_SUCCEEDED)
        (start,) = story.starts
        done[start.attempt_started.worker_id] += 1
    assert len(done) == workers, done
    return list(done.values())
