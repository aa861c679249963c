"""Ultralytics in its own process: what it is let do, what its networks are, and which of its files are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest

from handful.bundle.predictor import Backbone
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS
from services.trainer.worker import backbones
from services.trainer.worker.children import ChildLost, Children
from services.trainer.worker.pretrained import PretrainedWeights, WeightsUnavailable, key, offered
from services.trainer.worker.pretrained.torch_files import Arrays, NotTensors
from services.trainer.worker.weights import to_kept
from services.trainer.worker.yolo import bodies, quarantine
from tests.measuring import Figures

pytestmark = [
    pytest.mark.skipif(find_spec(ULTRALYTICS) is None, reason="the extra yolo is not installed"),
    pytest.mark.timeout(600),
]
YOLO = [row for row in ARCHITECTURES.values() if row.network.library == ULTRALYTICS]
SMALL = ARCHITECTURES["yolo11n_cls"]
PREFIX = "services.trainer.worker"
# Everything that a system call could do that a job must not.
WATCHED = "execve,connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink"
WATCHED += ",unlinkat,rmdir,symlink,symlinkat,link,linkat,truncate,chmod,fchmodat,chdir"
WRITES = re.compile(r'(?:O_WRONLY|O_RDWR|O_CREAT)|^\d+ +(?!execve|connect|send|open|openat)\w+\("')
PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Two tasks of `child.py`, in a process of their own, for figures and an official-looking weights file.
MEASURE = """
import json
from dataclasses import asdict
import torch
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS
from services.trainer.worker import networks
from services.trainer.worker.architectures import build
from tests.measuring import measure
found = {}
for row in ARCHITECTURES.values():
    if row.network.library == ULTRALYTICS:
        with torch.device("meta"):
            body = build(row.network, None)
        found[row.id] = asdict(measure(row)) | {"num_blocks": len(networks.blocks(body))}
open("figures.json", "w").write(json.dumps(found))
"""
SAVE = """
import sys, torch
from ultralytics.nn.tasks import ClassificationModel
torch.manual_seed(5)
model = ClassificationModel("yolo11n-cls.yaml", nc=1000, verbose=False).half()
if len(sys.argv) > 1:
    import subprocess
    model.criterion = subprocess.Popen
torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {"imgsz": 224}}, "saved.pt")
"""


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.end()


def apart(folder: Path, code: str, *arguments: str) -> None:
    """Runs code where Ultralytics may be imported: as `quarantine` has it, in a folder."""
    command = [sys.executable, "-P", "-s", "-c", code, *arguments]
    (folder / "tmp").mkdir(exist_ok=True)
    subprocess.run(command, cwd=folder, env=quarantine.environment(folder, 2), check=True, capture_output=True)


def job(folder: Path, picture: Callable[..., bytes]) -> dict[str, Any]:
    """What an epoch needs, laid into a folder."""
    for label in range(2):
        (folder / "pictures" / f"{label:06d}").mkdir(parents=True)
        for seed in range(6):
            (folder / "pictures" / f"{label:06d}" / f"{seed}.jpg").write_bytes(picture(seed))
    np.save(folder / "measured.npy", np.zeros((3, 224, 224, 3), np.uint8))
    numbers = {"num_classes": 2, "num_pictures": 12, "num_epochs": 1, "batch_size": 4, "seed": 0, "size": 224}
    rates = {"learning_rate": 1e-3, "weight_decay": 1e-4, "horizontal_flip": 0.5, "brightness": 0.2, "saturation": 0.2}
    choices = {"do": "train", "architecture": SMALL.id, "pretrained": False, "frozen": False, "export": True}
    return {**numbers, **rates, **choices}


def traced(folder: Path, task: Mapping[str, Any]) -> list[str]:
    """The system calls of the process that does a task, with everything that it starts."""
    (folder / "tmp").mkdir()
    (folder / "task.json").write_text(json.dumps(task))
    trace = folder.with_name("trace")
    command = ["strace", "-f", "-qq", "-s", "300", "-o", str(trace), "-e", f"trace={WATCHED}", sys.executable]
    command += ["-P", "-s", "-m", f"{PREFIX}.yolo.child"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=quarantine.environment(folder, 2),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.read().decode()
        assert process.wait() == 0, process.stderr and process.stderr.read().decode()
    assert '"metrics"' in said
    return trace.read_text(errors="replace").splitlines()


def outside(call: str, folder: Path) -> list[str]:
    """The paths outside of the folder that a call may have changed, but for what is no file on a disk."""
    paths = [] if "ENOENT" in call or not WRITES.search(call) else PATHS.findall(call)
    mine = (f"{folder}/", "/dev/null", "/dev/shm/sem.")  # noqa: S108 - semaphores, removed as soon as they are open
    return [path for path in paths if path.startswith("/") and not path.startswith(mine) and path != str(folder)]


def test_it_calls_nobody_and_writes_nowhere_else(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """An epoch and the export of a graph, every system call looked at: no connection, no name looked up, no program
    but the dynamic loader's list, nothing written outside of the job's folder.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    folder = tmp_path / "job"
    folder.mkdir()
    calls = traced(folder, job(folder, picture))
    assert any("safetensors" in call for call in calls)
    assert [call for call in calls if re.search(r"AF_INET6?\b|sin_port", call)] == []
    programs = {PATHS.findall(call)[0] for call in calls if " execve(" in call and call.endswith(" = 0")}
    assert programs <= {sys.executable, "/sbin/ldconfig"}
    assert [call for call in calls if " chdir(" in call] == []  # so that a path without a root is in the folder
    assert {path for call in calls for path in outside(call, folder)} == set()
    assert {path.name for path in folder.iterdir()} >= {"graph.onnx", "body.safetensors", "head.safetensors"}
    settings = json.loads((folder / "config" / "Ultralytics" / "settings.json").read_text())
    assert {name for name, value in settings.items() if value is True} == set()


def told(program: str, *arguments: object, **environment: str) -> str:
    """What a program says in a process of its own, with some variables set."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ours = {**os.environ, **environment}
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=ours).stdout


ENVIRONMENT = f"""
import json, sys
from pathlib import Path
from {PREFIX}.yolo import quarantine
print(json.dumps(quarantine.environment(Path(sys.argv[1]), 2)))
"""


def test_its_environment_is_its_own(tmp_path: Path) -> None:
    """Of ours it gets which accelerator to use, and no key, proxy or token."""
    names = ("ULTRALYTICS_API_KEY", "HTTPS_PROXY", "HANDFUL_STORE", "COMET_API_KEY", "GITHUB_ACTIONS")
    secrets = dict.fromkeys(names, "secret")
    given = json.loads(told(ENVIRONMENT, tmp_path, CUDA_VISIBLE_DEVICES="3", **secrets))
    assert given["CUDA_VISIBLE_DEVICES"] == "3"
    assert "secret" not in given.values()
    switches = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "ULTRALYTICS_SAFE_LOAD": "true"}
    places = {"HOME": tmp_path, "YOLO_CONFIG_DIR": tmp_path / "config", "TMPDIR": tmp_path / "tmp"}
    assert given.items() >= {**switches, **{name: str(place) for name, place in places.items()}}.items()


def test_only_its_own_process_imports_it() -> None:
    """Nothing but the child's own modules imports Ultralytics, and nothing of the worker's imports those."""
    graph = grimp.build_graph("handful", "services", include_external_packages=True, cache_dir=None)
    own = {f"{PREFIX}.yolo.tasks", f"{PREFIX}.yolo.trainer"}
    builder = f"{PREFIX}.architectures.of_ultralytics"  # inside a function, which only a child calls
    assert graph.find_modules_that_directly_import(ULTRALYTICS) == own | {builder}
    assert graph.find_modules_that_directly_import(f"{PREFIX}.yolo.tasks") == {f"{PREFIX}.yolo.child"}
    assert graph.find_modules_that_directly_import(f"{PREFIX}.yolo.trainer") == {f"{PREFIX}.yolo.tasks"}
    assert graph.find_modules_that_directly_import(f"{PREFIX}.yolo.child") == set()


def test_its_networks_are_what_their_rows_say(tmp_path: Path) -> None:
    """Parameters, cost, memory, blocks and shapes of all five, counted without numbers."""
    apart(tmp_path, MEASURE)
    counted = json.loads((tmp_path / "figures.json").read_text())
    assert list(counted) == [row.id for row in YOLO]
    for row in YOLO:
        assert counted[row.id].pop("num_blocks") == row.num_blocks
        figures = Figures(**counted[row.id])
        assert figures.num_parameters == row.num_parameters
        assert figures.gflops == pytest.approx(row.gflops, rel=0.005)
        assert figures.training_memory_bytes == pytest.approx(row.training_memory_bytes, rel=0.01)
        assert tuple(figures.features) == (2, row.feature_width)
        assert tuple(figures.feature_map) == (2, row.feature_width, 7, 7)


def saved(folder: Path, *arguments: str) -> bytes:
    """A weights file as Ultralytics writes its own: a whole module, pickled."""
    apart(folder, SAVE, *arguments)
    return (folder / "saved.pt").read_bytes()


def test_its_weights_files_give_their_tensors(tmp_path: Path) -> None:
    """A file that holds a module is read to tensors by name, in order and as float32."""
    tensors = bodies.read(saved(tmp_path))
    first, *_, last = tensors
    assert (first, last) == ("model.0.conv.weight", "model.10.linear.bias")
    assert {array.dtype.name for array in tensors.values()} == {"float32", "int64"}


@pytest.mark.parametrize("data", [b"", b"no weights", "subprocess"], ids=["nothing", "text", "a pickle that calls"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, data: bytes | str) -> None:
    """So is a file that names anything else than networks; nothing in it is called."""
    with pytest.raises(NotTensors, match="cannot read it"):
        bodies.read(saved(tmp_path, data) if isinstance(data, str) else data)


READ = f"""
from {PREFIX}.pretrained.torch_files import NotTensors
from {PREFIX}.yolo import bodies
try:
    bodies.read(b"weights")
except NotTensors as problem:
    print(problem)
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('libGL.so.1')", "does not load"),
        ("import os; os.kill(os.getpid(), 9)", "memory does not suffice"),
    ],
    ids=["a library is missing", "the system killed it"],
)
def test_weights_are_not_read_where_ultralytics_cannot(tmp_path: Path, code: str, says: str) -> None:
    """One that does not load, and one that memory does not suffice for, are a reason, as a broken file is."""
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "__init__.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert says in told(READ, PYTHONPATH=path)


def test_a_pretrained_body_is_shared_and_a_graph(tmp_path: Path, store: FilesystemStore, children: Children) -> None:
    """Kept weights become the body that all projects share; its features are those of the same weights next time."""
    weights = PretrainedWeights(store, downloads=False)
    with pytest.raises(WeightsUnavailable, match="handful weights import FILE --as yolo11n_cls"):
        weights.tensors(SMALL)
    tensors: Arrays = bodies.read(saved(tmp_path))
    store.put(key(SMALL), to_kept(tensors, offered(SMALL).sha256))
    recipe = Recipe(architecture=SMALL.id, weights=WEIGHTS_PRETRAINED)
    backbone, graph = backbones.find(store, weights, recipe, SMALL.preprocessing, "any", children)
    assert (backbone.weights_origin, backbone.weights_sha256) == ("pretrained", offered(SMALL).sha256)
    assert all(name.startswith("backbones/") for name in store.keys("backbones/"))
    features = Backbone(graph).features(np.full((1, 224, 224, 3), 128, np.uint8))
    assert features.shape == (1, SMALL.feature_width)
    again, _ = bodies.export(children, SMALL, tensors, seed=9)  # a seed says nothing where all numbers are given
    assert np.abs(Backbone(again).features(np.full((1, 224, 224, 3), 128, np.uint8)) - features).max() < 1e-6


def test_a_job_that_fails_is_lost_and_its_folder_with_it(children: Children) -> None:
    """A task that cannot be done raises here, and leaves nothing in the way."""
    with pytest.raises(ChildLost, match="exit code 1"), children.folder() as folder:
        list(quarantine.answers(children, folder, {"do": "nothing"}, 1, lambda: None))
    assert not folder.exists()
