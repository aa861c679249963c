"""What is deployed is told what it can be told, and nothing else: compose, its example file, and Kubernetes."""

import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from deploy import composition
from deploy.dockerfile import images
from services.dataset.settings import DatasetSettings
from services.inference.settings import InferenceSettings
from services.shared.objects.provision import ProvisionSettings
from services.trainer.settings import TrainerSettings
from services.trainer.worker.settings import WorkerSettings
from tests.deploy.manifests import OVERLAYS, Manifest, needs_kubectl, overlay, pods

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS: dict[str, type[Any]] = {
    "dataset": DatasetSettings,
    "trainer": TrainerSettings,
    "worker": WorkerSettings,
    "inference": InferenceSettings,
    "provision": ProvisionSettings,
}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def variables(settings: type[Any]) -> Iterator[tuple[str, Any]]:
    """Every variable that a service reads, with its field."""
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from variables(hints[field.name])
        else:
            yield f"HANDFUL_{field.name.upper()}", field


EVERY = [pair for settings in SETTINGS.values() for pair in variables(settings)]
NAMES = {variable for variable, _ in EVERY}


def written(default: Any) -> str:
    """A default as people write it in a file."""
    if default is dataclasses.MISSING:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_example_has_every_setting() -> None:
    """deploy/.env.example has every variable of every service, what it is for in our words, and its default."""
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    given = {line.lstrip("#").split("=")[0]: number for number, line in enumerate(lines) if "HANDFUL_" in line[:9]}
    assert given.keys() == NAMES
    for variable, field in EVERY:
        assert field.metadata["purpose"] in lines[given[variable] - 1]
        if lines[given[variable]].startswith("#"):
            assert lines[given[variable]] == f"#{variable}={written(field.default)}"


def test_the_example_has_no_password() -> None:
    """Whoever copies the file must make passwords, and compose refuses to start without them."""
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    secrets = [line for line in lines if line.split("=")[0].endswith(("PASSWORD", "SECRET_KEY"))]
    assert len(secrets) >= 6
    assert all(line.endswith("=") for line in secrets)


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_gives_a_service_its_settings(service: str) -> None:
    """In compose a service is given every variable that it reads, beside those of its image, and none of another's."""
    given = COMPOSE["services"][service]["environment"]
    image = images()["dataset" if service == "provision" else service]
    kept = {"HANDFUL_PARENT_PIPE"}
    expected = {variable for variable, _ in variables(SETTINGS[service])} - image.environment.keys() - kept
    assert given.keys() == expected


def test_compose_gives_inference_a_key_that_only_reads() -> None:
    """The writing identity is for those that write; the store's administrator is for its provisioning alone."""
    keys = {name: service.get("environment", {}) for name, service in COMPOSE["services"].items()}
    readers = {name for name, given in keys.items() if "READ_SECRET_KEY" in (given.get("HANDFUL_S3_SECRET_KEY") or "")}
    writers = {name for name, given in keys.items() if "WRITE_SECRET_KEY" in (given.get("HANDFUL_S3_SECRET_KEY") or "")}
    roots = {name for name, given in keys.items() if "S3_ROOT_PASSWORD" in str(list(given.values()))}
    assert (readers, writers) == ({"inference"}, {"dataset", "trainer", "worker"})
    assert roots == {"s3", "provision"}


def test_compose_hardens_and_publishes_to_this_machine_alone() -> None:
    """What we build runs read-only and without privilege, and no port is open to the network."""
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if service["image"].startswith("handful/"):
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
        else:
            assert "@sha256:" in service["image"]


def test_a_filled_example_is_all_that_compose_needs() -> None:
    """With passwords in .env every variable of every service gets its value."""
    given = composition.environments(composition.example())
    assert given.keys() == COMPOSE["services"].keys()
    assert all(value and "$" not in value for service in given.values() for value in service.values())
    with pytest.raises(KeyError):
        composition.environments({})


@pytest.mark.parametrize("files", [[], ["compose.gpu.yaml"], ["compose.light.yaml"]])
def test_compose_itself_understands_the_file(files: list[str], tmp_path: Path) -> None:
    """`docker compose config` takes the files with a filled example, and refuses the empty one by a password's name."""
    compose = ["docker", "compose"]
    if shutil.which("docker") is None or subprocess.run([*compose, "version"], check=False).returncode != 0:
        pytest.skip("docker compose is not on this machine")
    arguments = [word for file in ("compose.yaml", *files) for word in ("-f", str(DEPLOY / file))]
    example = (DEPLOY / ".env.example").read_text()
    (tmp_path / "empty").write_text(example)
    (tmp_path / "filled").write_text(
        "\n".join(f"{line}x" if line.endswith("=") and line[0] != "#" else line for line in example.splitlines())
    )
    for name, refusal in (("filled", ""), ("empty", "deploy/.env.example")):
        command = [*compose, "--env-file", str(tmp_path / name), *arguments, "config", "--quiet"]
        said = subprocess.run(command, capture_output=True, check=False, text=True)
        assert (said.returncode == 0) is not bool(refusal), said.stderr
        assert refusal in said.stderr


def given_to(pod: Any, manifests: tuple[Manifest, ...]) -> set[str]:
    """Every variable of ours that a pod's container gets from its manifest, its ConfigMap and its secrets here."""
    (container,) = pod.spec["containers"]
    made = {one["metadata"]["name"]: one for one in manifests if one["kind"] in {"ConfigMap", "Secret"}}
    names = {one["name"] for one in container.get("env", [])}
    for source in container.get("envFrom", []):
        (reference,) = source.values()
        names |= made.get(reference["name"], {"data": {}})["data"].keys()
    return {name for name in names if name.startswith("HANDFUL_")}


@needs_kubectl
@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_gives_pods_settings_that_exist(name: str) -> None:
    """No pod gets a variable that no service reads, and a service with a secret here gets all that it needs."""
    manifests = overlay(name)
    owners = {"trainer-worker": "worker", "trainer-worker-job": "worker", "s3-provision": "provision"}
    for pod in pods(manifests):
        service = owners.get(pod.workload, pod.workload)
        if service not in SETTINGS:
            continue
        given = given_to(pod, manifests)
        assert given <= NAMES
        needed = {"HANDFUL_STORE", "HANDFUL_S3_ENDPOINT"}
        if name == "dev":
            needed |= {"HANDFUL_S3_ACCESS_KEY", "HANDFUL_S3_SECRET_KEY"}
            needed |= {f"HANDFUL_{service.upper()}_DATABASE"} if service in {"dataset", "trainer"} else set()
        assert needed <= given
