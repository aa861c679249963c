"""A worker in an environment without torch: it trains what needs none, takes nothing else, and says why."""

import asyncio
import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_RANDOM, Recipe
from handful.v1.trainer_pb2 import TrainingRun
from handful.v1.worker_pb2 import Capabilities
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import workers
from tests.playing_worker import add, create, events, read, refusal, seal
from tests.servers import DatasetService, TrainerService

ROOT = Path(__file__).parents[2]
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")
HEAVY = ("torch", "timm", "functorch", "triton", "nvidia", "onnxscript", "ultralytics")
REFUSED = """
from handful.v1.bundle_pb2 import WEIGHTS_RANDOM, Recipe
from services.trainer.worker import backbones, session
from services.trainer.worker.parts import NoTorch
for way in (
    lambda: backbones.build_body(Recipe(architecture="efficientnet_lite0", weights=WEIGHTS_RANDOM), None),
    lambda: session.trainer(Recipe(preset="baseline", architecture="efficientnet_lite0")),
):
    try:
        way()
    except NoTorch as problem:
        print(problem)
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has all packages but torch and what comes with it."""
    packages = tmp_path_factory.mktemp("light")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith(HEAVY) and each.suffix != ".pth":
            (packages / each.name).symlink_to(each)
    return {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_there_is_no_torch(light: dict[str, str]) -> None:
    """Torch cannot be imported there; what needs it says so in words, without trying."""
    ended = subprocess.run([PYTHON, "-c", "import torch"], env=light, capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in ended.stderr
    ended = subprocess.run([PYTHON, "-c", REFUSED], env=light, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    random, baseline = ended.stdout.splitlines()
    assert random.startswith("A body of efficientnet_lite0 with such weights needs torch")
    assert baseline.startswith("Preset baseline needs torch")


def test_the_doctor_says_what_is_trained_without(light: dict[str, str], tmp_path: Path) -> None:
    """There the doctor misses nothing but services that run: the worker is complete but light, and it says what that is
    good for.
    """
    command = [PYTHON, "-c", "from handful.cli.main import main; main()", "doctor", "--json", "--seconds", "60"]
    home = {"HANDFUL_HOME": str(tmp_path)}
    ended = subprocess.run(command, env=light | home, capture_output=True, text=True, check=False)
    said = {(one["check"], one["status"]): one["says"] for one in json.loads(ended.stdout)["findings"]}
    assert said["parts", "ok"] == "complete: dataset, trainer, worker-light, inference"
    assert {check for check, status in said if status not in ("ok", "warn")} == {"dataset", "trainer", "inference"}
    lites = "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2"
    assert f"torch is not installed: presets fast and quality on {lites} are trained" in said["device", "warn"]
    assert "for all else: `make setup`" in said["device", "warn"]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_it_trains_what_needs_no_torch(
    trainer_service: TrainerService,
    dataset_service: DatasetService,
    store: FilesystemStore,
    picture: Callable[..., bytes],
    light: dict[str, str],
    tmp_path: Path,
) -> None:
    """It builds backbones and trains `fast` and `quality`, whose challenger it leaves out aloud; what needs torch
    waits, and is refused from then on.
    """
    dataset = (await seal(dataset_service, picture)).partition("/versions/")[0]
    version = await add(dataset_service, picture, dataset, range(4, 12))
    heavy = [Recipe(preset="baseline"), Recipe(weights=WEIGHTS_RANDOM), Recipe(architecture="efficientnet_b0")]
    waiting = [await create(trainer_service, version, recipe=recipe) for recipe in heavy]
    beside = Recipe(preset="fast", architecture="efficientnet_lite0_and_lite2")
    light_ones = [Recipe(preset="fast"), Recipe(preset="quality", challenger_epochs=5), beside]
    able = [await create(trainer_service, version, recipe=recipe) for recipe in light_ones]
    environment = {
        **light,
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_STORE": str(store.folder),
        "HANDFUL_WORKER_TRAINER": trainer_service.worker_address,
        "HANDFUL_WORKER_KIND": "job",
        "HANDFUL_WORKER_IDLE_SECONDS": "1",
    }
    job = await asyncio.create_subprocess_exec(PYTHON, "-m", "services.trainer.worker", cwd=ROOT, env=environment)
    assert await job.wait() == 0
    for run in able:
        ended = await read(trainer_service, run.name)
        assert ended.state == TrainingRun.STATE_SUCCEEDED, ended.failure
    noted = [one.notice.reason for one in await events(trainer_service, able[1].name) if one.HasField("notice")]
    assert "CHALLENGER_LEFT_OUT" in noted
    left = [await read(trainer_service, run.name) for run in waiting]
    assert [run.state for run in left] == [TrainingRun.STATE_QUEUED] * 3
    async with trainer_service.database.read() as connection:
        (known,) = await workers.known(connection)
    assert known.lacks_torch
    assert known.kind == Capabilities.KIND_JOB
    assert "efficientnet_b0" not in {*known.pretrained, *known.fetchable}
    for recipe in heavy:
        error = await refusal(create(trainer_service, version, recipe=recipe))
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "NO_TORCH"
        assert "presets fast and quality with the pretrained weights of efficientnet_lite0" in error.message
        assert "make setup" in error.message
