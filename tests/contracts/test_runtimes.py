"""What every runtime of the inference service does, and how one is chosen."""

import asyncio
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from structlog.testing import capture_logs

from handful.bundle.predictor import Pixels
from services.inference.runtimes import DEFAULT, LONE_THREADS, RUNTIMES, WIDE, Body
from services.inference.runtimes.choosing import AUTO, Choice, Chooser, allowed, pick
from services.inference.runtimes.measuring import MAX_RELATIVE_DIFFERENCE, measure
from tests import real_bundles
from tests.bundles import ONLY_ONNXRUNTIME, mean_colour, without_map
from tests.processes import children, until

ROOT = Path(__file__).parents[2]
ROW = real_bundles.ROW
# Random numbers, so that two runs differ.
DICE = """
    <ir_version: 10, opset_import: ["" : 18]>
    dice (uint8[n,32,32,3] pixels) => (float[n,3] features) {
        numbers = Cast<to = 1>(pixels)
        sides = Constant<value = int64[2] {1, 2}>()
        colour = ReduceMean<keepdims = 0>(numbers, sides)
        noise = RandomUniformLike<low = 0.0, high = 100.0>(colour)
        features = Add(colour, noise)
    }
"""
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from services.inference.runtimes import RUNTIMES
body = RUNTIMES["openvino"].load(sys.stdin.buffer.read(), 1)
print(body.features(np.zeros((1, 32, 32, 3), np.uint8)))
"""


@pytest.fixture(scope="module")
def graph() -> bytes:
    """The default backbone, with its real weights."""
    return real_bundles.graph()


@pytest.fixture(scope="module", params=RUNTIMES)
def body(request: pytest.FixtureRequest, graph: bytes) -> Body:
    if RUNTIMES[request.param].version is None:
        pytest.skip(f"{request.param} is not installed")
    return RUNTIMES[request.param].load(graph, 2)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Eight pictures of noise over a gradient."""
    size = ROW.preprocessing.size
    random = np.random.default_rng(0)
    base = np.linspace(0, 200, size)[None, :, None, None] * random.uniform(0, 1, (8, 1, 1, 3))
    return (base + random.integers(0, 55, (8, size, size, 3))).astype(np.uint8)


def drawn(text: str) -> bytes:
    graph: bytes = onnx.parser.parse_model(text).SerializeToString()
    return graph


def small(count: int = 4) -> list[dict[str, Pixels]]:
    """Inputs of the small graphs."""
    return [{"pixels": np.full((1, 32, 32, 3), 40 * (place + 1), np.uint8)} for place in range(count)]


def test_company_changes_no_bit(body: Body, pixels: Pixels) -> None:
    """Features of pictures that go together are those of each alone, bit for bit, also when two threads ask at once."""
    alone = np.concatenate([body.features(one[None]) for one in pixels])
    for count in (2, 3, 8):
        assert np.array_equal(body.features(pixels[:count]), alone[:count])
    with ThreadPoolExecutor(2) as threads:
        at_once = list(threads.map(lambda place: body.features(pixels[place : place + 1]), range(8)))
    assert np.array_equal(np.concatenate(at_once), alone)


@pytest.mark.parametrize("name", WIDE)
def test_more_threads_change_no_bit(name: str, graph: bytes, pixels: Pixels) -> None:
    """Features of a picture that is alone, on several threads, are those that it has in company, bit for bit."""
    wide, narrow = WIDE[name].load(graph, 1), RUNTIMES[name].load(graph, 1)
    in_company = narrow.features(pixels)
    for _ in range(5):
        assert np.array_equal(np.concatenate([wide.features(one[None]) for one in pixels]), in_company)


@pytest.mark.parametrize(("threads", "alone"), [(1, set[int]()), (2, {1, LONE_THREADS})])
def test_several_threads_are_measured_where_there_are_several(
    graph: bytes, pixels: Pixels, threads: int, alone: set[int]
) -> None:
    """A server of one thread has no other for a picture; nor has any where that changes a bit, or what is a sound."""
    found = measure((DEFAULT,), graph, [{"pixels": pixels[:1]}], 1, 0.1, threads)
    assert {(name, count) for name, count, _ in found["alone"]} == {(DEFAULT, count) for count in alone}
    assert measure((DEFAULT,), drawn(DICE), small(), 1, 0.1, threads)["alone"] == []


def test_runtimes_agree(body: Body, graph: bytes, pixels: Pixels) -> None:
    """Features are those of the runtime that heads are fitted with, within the bound of the gate; so is the map."""
    reference = RUNTIMES[DEFAULT].load(graph, 1)
    for got, expected in zip(body.mapped(pixels[:2]), reference.mapped(pixels[:2]), strict=True):
        assert got is not None
        assert expected is not None
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= MAX_RELATIVE_DIFFERENCE * np.abs(expected).max()


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_graph_need_not_have_a_map(name: str) -> None:
    """Of a graph without a feature map there are features and none."""
    features, feature_map = RUNTIMES[name].load(without_map(), 1).mapped(small()[0]["pixels"])
    assert feature_map is None
    assert features.shape == (1, 3)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("bytes_", [b"", b"no graph", mean_colour()[:-40]], ids=["empty", "text", "cut"])
def test_what_is_no_graph_is_refused(name: str, bytes_: bytes) -> None:
    """A library raises what it likes, but it raises."""
    with pytest.raises(Exception, match=r"."):
        RUNTIMES[name].load(bytes_, 1)


async def test_what_is_installed_is_measured(graph: bytes, pixels: Pixels) -> None:
    """Every runtime has a time alone and in batches, none is refused, and what is chosen is one of these."""
    inputs = [{"pixels": one[None]} for one in pixels[:4]]
    found = measure(allowed(AUTO), graph, inputs, 4, 0.5)
    assert found["refused"] == {}
    assert {(name, size) for name, size, _ in found["rows"]} == {
        (name, size) for name in RUNTIMES for size in (1, 2, 4)
    }
    assert min(milliseconds for _, _, milliseconds in found["rows"]) > 0
    chooser = Chooser(allowed(AUTO), 4)
    assert chooser.known("sha") is None
    choice = await chooser.choose("sha", graph, inputs)
    assert choice.runtime in RUNTIMES
    assert choice.cap in {1, 2, 4}
    assert chooser.known("sha") is None  # it has not been tried in this process
    chooser.settle("sha", choice)
    assert chooser.known("sha") == choice


@pytest.mark.parametrize(
    ("text", "names", "refused"),
    [(DICE, (DEFAULT, "openvino"), {DEFAULT, "openvino"}), (ONLY_ONNXRUNTIME, (DEFAULT, "openvino"), {"openvino"}),
     (ONLY_ONNXRUNTIME, ("openvino",), {"openvino"})],
    ids=["dice", "own", "named"],
)  # fmt: skip
async def test_what_disagrees_is_refused(text: str, names: Sequence[str], refused: set[str]) -> None:
    """A runtime whose features are others, or that cannot run the graph, is refused with a warning, and the default one
    serves it; one picture at a time where it does not agree with itself.
    """
    with capture_logs() as lines:
        choice = await Chooser(names, 4).choose("sha", drawn(text), small())
    assert {line["runtime"] for line in lines if line["event"] == "a runtime is refused"} == refused
    assert choice.runtime == DEFAULT
    assert choice.cap == 1 or text == ONLY_ONNXRUNTIME


async def test_what_dies_changes_nothing() -> None:
    """Where no process comes back with figures the default runtime goes on, one picture at a time; the log says so."""
    with capture_logs() as lines:
        assert await Chooser((DEFAULT, "openvino"), 4).choose("sha", b"no graph", small()) == Choice()
    assert [line["event"] for line in lines].count("runtimes cannot be measured") == 2


async def test_where_the_machine_is_busy_it_is_said_calmly(graph: bytes) -> None:
    """That there was no time to measure is no fault: a warning without a traceback, and the default runtime serves."""
    with capture_logs() as lines:
        assert await Chooser((DEFAULT,), 4, patience=0.01).choose("sha", graph, small()) == Choice()
    (line,) = [line for line in lines if line["event"].startswith("runtimes not measured in time")]
    assert (line["log_level"], "exc_info" in line) == ("warning", False)


async def test_a_process_that_measures_does_not_outlive_its_server(graph: bytes) -> None:
    """A choice that is given up while its process runs has ended it."""
    chooser = Chooser((DEFAULT,), 8)
    size = ROW.preprocessing.size
    task = asyncio.create_task(chooser.choose("sha", graph, [{"pixels": np.zeros((1, size, size, 3), np.uint8)}]))

    def measuring() -> list[int]:
        return [pid for pid in children() if b"runtimes.measuring" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    await asyncio.to_thread(until, measuring, "a process measures")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: measuring() == [], "it has ended")


@pytest.mark.parametrize("milliseconds", range(0, 40, 2))
def test_a_server_that_stops_while_it_measures_ends(graph: bytes, milliseconds: int) -> None:
    """Whatever is being done at that moment, starting the process too."""

    async def serve() -> None:
        inputs = [{"pixels": np.zeros((1, *[ROW.preprocessing.size] * 2, 3), np.uint8)}]
        measuring = asyncio.create_task(Chooser((DEFAULT,), 8).choose("sha", graph, inputs))
        await asyncio.sleep(milliseconds / 1000)
        assert not measuring.done()

    server = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    server.start()
    server.join(10)
    assert not server.is_alive()


@pytest.mark.parametrize(
    ("rows", "choice"),
    [
        ([], Choice(DEFAULT, 1)),
        ([(DEFAULT, 1, 5.0), (DEFAULT, 2, 4.9), (DEFAULT, 4, 5.2)], Choice(DEFAULT, 1)),
        ([(DEFAULT, 1, 5.0), (DEFAULT, 2, 4.6), (DEFAULT, 4, 4.5), (DEFAULT, 8, 4.6)], Choice(DEFAULT, 2)),
        ([(DEFAULT, 1, 5.0), ("openvino", 1, 4.9)], Choice(DEFAULT, 1)),
        ([(DEFAULT, 1, 5.0), ("openvino", 1, 4.0)], Choice("openvino", 1)),
        ([(DEFAULT, 1, 4.0), (DEFAULT, 8, 4.0), ("openvino", 1, 5.0), ("openvino", 8, 2.0)], Choice("openvino", 8)),
        ([("openvino", 1, 9.0), ("openvino", 4, 8.0)], Choice("openvino", 4)),
    ],
)  # fmt: skip
def test_the_fastest_is_chosen(rows: Sequence[tuple[str, int, float]], choice: Choice) -> None:
    """By one picture and by batches; of equals the default runtime and the smaller batch."""
    assert pick(rows) == choice


@pytest.mark.parametrize(
    ("alone", "threads"),
    [([], 1), ([(DEFAULT, 1, 5.0), (DEFAULT, 2, 4.1)], 1), ([(DEFAULT, 1, 5.0), (DEFAULT, 2, 3.9)], 2),
     ([("openvino", 1, 5.0), ("openvino", 2, 3.0)], 1)],
)  # fmt: skip
def test_several_threads_have_to_be_worth_it(alone: Sequence[tuple[str, int, float]], threads: int) -> None:
    """A picture that is alone has them where it is done in four fifths of the time, by the runtime that is chosen."""
    assert pick([(DEFAULT, 1, 5.0)], alone) == Choice(DEFAULT, 1, threads)


@pytest.mark.parametrize("ci", [{}, {"CI": "true"}], ids=["bare", "ci"])
def test_openvino_tells_nobody(tmp_path: Path, ci: dict[str, str]) -> None:
    """In a process that knows of no tests: no name looked up, no connection, no program started, nothing written."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    calls = "trace=network,execve,openat,open,creat,mkdir,mkdirat,rename,renameat,unlink,unlinkat"
    command = [strace, "-f", "-qq", "-o", str(trace), "-e", calls, sys.executable, "-B", "-c", RUN, str(ROOT)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), **ci}
    done = subprocess.run(command, input=mean_colour(), capture_output=True, env=environment, cwd=home, check=True)
    assert b"[[0. 0. 0.]]" in done.stdout
    lines = [line.split(maxsplit=1)[1] for line in trace.read_text(errors="replace").splitlines()]
    assert any("libopenvino_intel_cpu_plugin" in line for line in lines)
    assert [line for line in lines if re.match(r"(socket|connect|sendto|sendmsg|bind)\(", line)] == []
    assert [line for line in lines if line.startswith("execve")][1:] == []
    written = [line for line in lines if re.search(r"O_WRONLY|O_RDWR|O_CREAT|^(creat|mkdir|rename|unlink)", line)]
    assert [line for line in written if '"/dev/null"' not in line] == []
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "told"),
    [("openvino", "is not installed. Install Handful with the extra openvino"), ("tensorrt", "must be one of auto,")],
)
def test_a_runtime_that_is_not_there_stops_the_start(tmp_path: Path, named: str, told: str) -> None:
    """A service without OpenVINO says which variable asks for it, and what to do; so it does of a name that it does not
    know. Both end with 2. Without the variable it starts with what there is.
    """
    packages = tmp_path / "packages"
    packages.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith("openvino") and each.suffix != ".pth":
            (packages / each.name).symlink_to(each)
    environment: dict[str, Any] = {
        "PYTHONPATH": f"{ROOT}:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_INFERENCE_ADDRESS": "127.0.0.1:0",
        "HANDFUL_INFERENCE_RUNTIME": named,
    }
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    command = [python, "-m", "services.inference"]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"HANDFUL_INFERENCE_RUNTIME={named}"[:26] in ended.stderr
    assert told in ended.stderr
    command = [python, "-c", "from services.inference.runtimes.choosing import allowed; print(allowed('auto'))"]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == f"('{DEFAULT}',)\n"
