"""Work in child processes: real ones, which answer, break, are killed, and end with the work they are part of."""

import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio.error import S3Error
from urllib3 import HTTPResponse

from services.shared.objects import StoreFull
from services.trainer.worker.children import ChildLost, Children
from tests.processes import PATIENCE_SECONDS, alive, until


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.end()


def divide(number: int, by: int) -> tuple[float, int]:
    return number / by, os.getpid()


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def stubborn(file: Path) -> None:
    """Starts a process of its own, writes both their ids down, and listens to nobody; nor does the other."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    other = subprocess.Popen([sys.executable, "-c", sleeper])
    file.with_suffix(".new").write_text(f"{os.getpid()} {other.pid}")
    file.with_suffix(".new").rename(file)
    time.sleep(300)


def started(file: Path) -> list[int]:
    """The ids that `stubborn` wrote down."""
    until(file.exists, "the child starts")
    return [int(pid) for pid in file.read_text().split()]


def test_a_child_answers_from_a_process_of_its_own(children: Children) -> None:
    """The task's result comes back, and another process made it."""
    result, pid = children.run(divide, 3, 2)
    assert (result, pid != os.getpid(), alive(pid)) == (1.5, True, False)


def test_what_a_child_raises_is_raised_here(children: Children) -> None:
    """The task's exception comes back as itself."""
    with pytest.raises(ZeroDivisionError):
        children.run(divide, 3, 0)


def refused() -> None:
    """Raises what a store does that an S3 server refuses."""
    answer = HTTPResponse(body=io.BytesIO(), status=503)
    problem = S3Error(answer, "XMinioStorageFull", "no room", "key", "request", "host")
    raise StoreFull("the store is full") from problem


def test_what_has_a_cause_that_cannot_be_sent_is_raised_here(children: Children) -> None:
    """An error that a library's object caused, which no other process can make again, comes back as itself."""
    with pytest.raises(StoreFull, match="the store is full") as raised:
        children.run(refused)
    assert "no room" in str(raised.value.__cause__)


class Deadly:
    """Whoever unpacks it ends."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


@pytest.mark.parametrize("rest", [b"", bytes(2**22)], ids=["little", "much"])
def test_a_child_that_dies_before_it_begins_is_lost(children: Children, rest: bytes) -> None:
    """However much it was to be handed."""
    with pytest.raises(ChildLost, match="ended with exit code 1"):
        children.run(divide, Deadly(), rest)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, MemoryError), (signal.SIGSEGV, ChildLost)])
def test_a_child_that_dies_is_an_error(children: Children, number: int, kind: type[Exception]) -> None:
    """What the system kills had no memory left; anything else is a child lost."""
    with pytest.raises(kind, match=f"exit code -{int(number)}"):
        children.run(die, number)


@pytest.mark.parametrize("stopped", [False, True])
def test_children_end_with_their_work(children: Children, tmp_path: Path, *, stopped: bool) -> None:
    """The end of the work kills a child that ignores SIGTERM, or is stopped, and all that it started."""
    lost: list[Exception] = []

    def work() -> None:
        try:
            children.run(stubborn, tmp_path / "pids")
        except ChildLost as problem:
            lost.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    pids = started(tmp_path / "pids")
    if stopped:
        os.kill(pids[0], signal.SIGSTOP)
    began = time.monotonic()
    children.end()
    thread.join(PATIENCE_SECONDS)
    assert time.monotonic() - began < 5
    assert len(lost) == 1
    until(lambda: not any(map(alive, pids)), "the group is gone")


def test_work_that_is_over_has_no_more_children(children: Children, tmp_path: Path) -> None:
    """After the end nothing starts."""
    children.end()
    with pytest.raises(ChildLost):
        children.run(stubborn, tmp_path / "pids")
    assert not (tmp_path / "pids").exists()


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Nobody is left of a child's group when its parent is killed with SIGKILL."""
    program = tmp_path / "parent.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from services.trainer.worker.children import Children\n"
        "from tests.unit.test_children import stubborn\n"
        "if __name__ == '__main__':\n    Children().run(stubborn, Path(sys.argv[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, program, tmp_path / "pids"], env=environment)
    pids = started(tmp_path / "pids")
    parent.kill()
    parent.wait()
    until(lambda: not any(map(alive, pids)), "the group is gone")


def folders(children: Children, entered: threading.Event, over: threading.Event) -> None:
    """Work that makes a folder after another."""
    while not over.is_set():
        with children.folder():
            entered.set()


def test_work_may_make_folders_while_it_ends(children: Children) -> None:
    """The end removes those there are, while a thread of the work makes more of them."""
    entered, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=folders, args=(children, entered, over))
    with children.folder() as one, children.folder() as other:
        for number in range(2000):  # removing them takes a while
            for folder in (one, other):
                (folder / str(number)).touch()
        thread.start()
        entered.wait()
        try:
            for _ in range(5):
                children.end()
        finally:
            over.set()
            thread.join()
        assert not one.exists()
        assert not other.exists()


def test_what_is_no_child_any_more_is_not_killed(children: Children) -> None:
    """Once a child was waited for its id may be another's: whoever has it lives on."""
    sleeper = (
        "import subprocess as s\n"
        "print(s.Popen(['sleep', '300'], start_new_session=True, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    )
    # Not a child of this process: its parent has ended.
    other = int(subprocess.run([sys.executable, "-c", sleeper], capture_output=True, check=True).stdout)
    try:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        gone.pid = other
        children._alive.add(gone)
        children.end()
        time.sleep(0.5)  # in which it would be gone
        assert alive(other)
    finally:
        os.kill(other, signal.SIGKILL)


def printing(children: Children, folder: Path, program: str) -> list[str]:
    """What a program prints."""
    command, environment = [sys.executable, "-c", program], dict(os.environ)
    with (folder / "errors").open("wb") as errors:
        return list(children.lines(command, environment, folder, errors, lambda: None))


def test_a_program_leaves_nobody_behind(children: Children, tmp_path: Path) -> None:
    """What a program that ended has started, and does not wait for, ends with it."""
    program = (
        "import subprocess\n"
        "print(subprocess.Popen(['sleep', '300'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    (pid,) = printing(children, tmp_path, program)
    until(lambda: not alive(int(pid)), "what the program started is gone")


@pytest.mark.parametrize(("end", "kind"), [("os.kill(os.getpid(), 9)", MemoryError), ("sys.exit(3)", ChildLost)])
def test_a_program_that_fails_is_an_error(children: Children, tmp_path: Path, end: str, kind: type[Exception]) -> None:
    """As of a function."""
    with pytest.raises(kind, match="exit code"):
        printing(children, tmp_path, f"import os, sys; {end}")


def test_programs_are_read_in_a_process_with_many_files(children: Children, tmp_path: Path) -> None:
    """Where a thousand files and more are open, which `select` cannot tell apart."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("a process may not have so many files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while opened[-1] < 1100:
            opened.append(os.dup(opened[0]))
        assert printing(children, tmp_path, "print('here')") == ["here"]
    finally:
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
