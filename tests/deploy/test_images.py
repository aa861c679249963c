"""What the images are made of. That they can be built and run is proved by `python -m deploy.prove`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.dockerfile import images, lock, stages
from deploy.prove import copy_sources
from tests.deploy.manifests import CLOUDS

ROOT = Path(__file__).parents[2]
IMAGES = images()


def pinned(file: Path) -> dict[str, list[str]]:
    """The packages of a lock, each with its hashes."""
    logical = file.read_text().replace("\\\n", " ").splitlines()
    entries = [line.split() for line in logical if "==" in line]
    return {words[0]: [word for word in words if word.startswith("--hash=")] for words in entries}


def heavy(file: Path) -> list[str]:
    """What a lock has of torch, of what is built on it, and of what comes with it."""
    pattern = re.compile(r"(torch|torchvision|timm|onnxscript|triton|nvidia-[\w-]+)==")
    return [package for package in pinned(file) if pattern.match(package)]


def test_there_is_an_image_for_every_service() -> None:
    """The Dockerfile has a target for each of the three services, and two for the worker: with torch and without."""
    assert IMAGES.keys() == {"dataset", "trainer", "inference", "worker", "worker-light"}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_what_is_tested(name: str) -> None:
    """The packages of an image are pinned, with their hashes, as those that the tests run with."""
    tested, installed = pinned(ROOT / "requirements.lock"), pinned(lock(IMAGES[name]))
    assert len(installed) > 20
    for package, hashes in installed.items():
        assert package in tested
        assert hashes
        assert set(hashes) == set(tested[package])


@pytest.mark.parametrize("name", IMAGES)
def test_torch_is_in_one_image_of_the_worker_alone(name: str) -> None:
    """No other image carries torch or what comes with it, nor CUDA."""
    assert bool(heavy(lock(IMAGES[name]))) == (name == "worker")


def test_the_light_lock_is_what_runs_without_torch() -> None:
    """`make demo` installs no torch, all that the other images have, and everything as it is tested."""
    light = pinned(ROOT / "requirements-light.lock")
    assert not heavy(ROOT / "requirements-light.lock")
    for name in IMAGES.keys() - {"worker"}:
        assert pinned(lock(IMAGES[name])).keys() <= light.keys()
    tested = pinned(ROOT / "requirements.lock")
    assert all(set(hashes) == set(tested[package]) for package, hashes in light.items())


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_started_by_its_user(name: str) -> None:
    """A container runs a module as user 10001, in exec form, is told to go by SIGTERM, and answers for its health."""
    image = IMAGES[name]
    assert image["USER"] == ["10001:10001"]
    assert image["STOPSIGNAL"] == ["SIGTERM"]
    assert image.command[:2] == ["python", "-m"]
    addresses = [value for key, value in image.environment.items() if key.endswith("ADDRESS")]
    assert image.probe[-1].replace("127.0.0.1", "0.0.0.0") in addresses  # noqa: S104 - of the container
    assert {address.rpartition(":")[2] for address in addresses} == set(image["EXPOSE"][0].split())


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_all_sources_it_needs(name: str, tmp_path: Path) -> None:
    """What is copied into an image is enough to get to a bad setting, and no other service is in it."""
    copy_sources(IMAGES[name], tmp_path)
    environment = {"HANDFUL_LOG_LEVEL": "loud", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *IMAGES[name].command[1:]]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ended.returncode == 2, ended.stderr.decode()
    assert "HANDFUL_LOG_LEVEL" in ended.stderr.decode()
    owner = "trainer" if name.startswith("worker") else name
    assert {path.name for path in (tmp_path / "services").iterdir()} == {"__init__.py", "shared", owner}


@pytest.mark.parametrize("name", CLOUDS)
def test_an_overlay_knows_every_image(name: str) -> None:
    """Wherever an overlay takes images from, all that are built have their names there, and no others."""
    text = (ROOT / "deploy" / "k8s" / "overlays" / name / "kustomization.yaml").read_text()
    named = {image["name"]: image["newName"].rpartition("/")[2] for image in yaml.safe_load(text)["images"]}
    assert named == {f"handful/{target}": target for target in IMAGES}


def test_compose_builds_targets_that_exist() -> None:
    """What compose builds are targets, named as they are, and with compose.light.yaml it builds the light worker."""
    built: dict[str, str] = {}
    for file in ("compose.yaml", "compose.light.yaml"):
        services = yaml.safe_load((ROOT / "deploy" / file).read_text())["services"]
        ours = {name: service for name, service in services.items() if "build" in service}
        assert all(one["image"] == f"handful/{one['build']['target']}:dev" for one in ours.values())
        built |= {name: one["build"]["target"] for name, one in ours.items()}
    assert built["worker"] == "worker-light"
    assert set(built.values()) == IMAGES.keys() - {"worker"}


def test_everything_from_elsewhere_is_pinned_by_digest() -> None:
    """Every image that the Dockerfile begins from is named by its digest, with a tag for people."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM ")]
    outside = [base for base in bases if base not in stages()]
    assert len(outside) == 2
    assert all(re.fullmatch(r"[^@]+:[^@]+@sha256:[0-9a-f]{64}", base) for base in outside)
