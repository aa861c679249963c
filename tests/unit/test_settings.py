"""Settings: the environment as a frozen object, or one line for everything that is wrong with it."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from services.dataset.settings import DatasetSettings
from services.inference.settings import InferenceSettings
from services.shared.settings import BadSettings, read, setting
from services.trainer.settings import TrainerSettings
from services.trainer.worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sample:
    needed: str = setting(purpose="something that has no default")
    name: str = setting("x", purpose="what it is called")
    workers: int = setting(2, purpose="how many", minimum=1, maximum=8)
    share: float = setting(0.5, purpose="which part", minimum=0, maximum=1)
    loud: bool = setting(default=False, purpose="whether")
    mood: str = setting("calm", purpose="how it is said", choices=("calm", "cross"))
    key: str = setting("", purpose="what opens it", choices=("", "sesame"), secret=True)


def test_what_is_not_set_has_its_default() -> None:
    """Unset and empty variables leave defaults, and the result cannot be changed."""
    settings = read(Sample, {"HANDFUL_NEEDED": "/x", "HANDFUL_WORKERS": "", "WORKERS": "7"})
    assert settings == Sample("/x", "x", 2, 0.5, loud=False)
    with pytest.raises(FrozenInstanceError):
        settings.workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("name", " kept as it is ", " kept as it is "),
        ("workers", "1", 1),
        ("workers", "8", 8),
        ("share", "1e-3", 0.001),
        ("mood", "cross", "cross"),
        *[("loud", word, True) for word in ("1", "true", "YES", "on")],
        *[("loud", word, False) for word in ("0", "false", "No", "OFF")],
    ],
)
def test_texts_become_values(variable: str, text: str, value: object) -> None:
    """Every kind of setting is read from the text that people write for it."""
    settings = read(Sample, {"HANDFUL_NEEDED": "/x", f"HANDFUL_{variable.upper()}": text})
    assert getattr(settings, variable) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *[("WORKERS", text) for text in ("0", "9", "1.5", "many", "-1", "1e400")],
        *[("SHARE", text) for text in ("nan", "inf", "1.01", "half")],
        *[("MOOD", text) for text in ("happy", "Calm", "calm ")],
        *[("LOUD", text) for text in ("2", "maybe", "t")],
    ],
)
def test_what_is_out_of_range_is_named(variable: str, text: str) -> None:
    """A value that cannot be is refused with the variable, what was given and what it is for."""
    with pytest.raises(BadSettings) as refused:
        read(Sample, {"HANDFUL_NEEDED": "/x", f"HANDFUL_{variable}": text})
    purpose = next(field.metadata["purpose"] for field in fields(Sample) if field.name == variable.lower())
    assert all(part in str(refused.value) for part in (f"HANDFUL_{variable}", text, purpose))


def test_everything_wrong_is_told_at_once() -> None:
    """There is one line per bad variable, those that are missing included."""
    with pytest.raises(BadSettings) as refused:
        read(Sample, {"HANDFUL_WORKERS": "x", "HANDFUL_SHARE": "x", "HANDFUL_LOUD": "x"})
    lines = str(refused.value).splitlines()
    assert [line.split("=")[0].split(" ")[0] for line in lines] == [
        "HANDFUL_NEEDED",
        "HANDFUL_WORKERS",
        "HANDFUL_SHARE",
        "HANDFUL_LOUD",
    ]


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    """`_FILE` names a file that holds the secret, its last line break apart; nothing that is printed shows it."""
    file = tmp_path / "key"
    file.write_text("sesame\n")
    settings = read(Sample, {"HANDFUL_NEEDED": "/x", "HANDFUL_KEY_FILE": str(file), "HANDFUL_NAME_FILE": str(file)})
    assert (settings.key, settings.name) == ("sesame", "x")
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"HANDFUL_KEY": "hush"}, "must be one of"),
        ({"HANDFUL_KEY": "hush", "HANDFUL_KEY_FILE": "/there"}, "HANDFUL_KEY_FILE"),
        ({"HANDFUL_KEY_FILE": "/nowhere/hush"}, "cannot read the file '/nowhere/hush'"),
        ({"HANDFUL_KEY_FILE": sys.executable}, "cannot read the file"),
        ({"HANDFUL_KEY_FILE": "/dev/null"}, "is empty"),
    ],
)
def test_a_wrong_secret_is_not_shown(given: dict[str, str], says: str) -> None:
    """What is wrong with a secret is told in a line that has the variable and not the value."""
    with pytest.raises(BadSettings) as refused:
        read(Sample, {"HANDFUL_NEEDED": "/x", **given})
    (line,) = str(refused.value).splitlines()
    assert line.startswith("HANDFUL_KEY: ")
    assert says in line
    assert given.get("HANDFUL_KEY", "nothing") not in line


BUCKET = {
    "HANDFUL_STORE": "s3://pictures/handful/",
    "HANDFUL_S3_ENDPOINT": "http://127.0.0.1:9000",
    "HANDFUL_S3_ACCESS_KEY": "me",
    "HANDFUL_S3_SECRET_KEY": "sesame",
}


def test_a_store_is_a_group_of_settings() -> None:
    """Every service reads the same variables about the store, and the secret one is shown nowhere."""
    services: tuple[type[Any], ...] = (DatasetSettings, InferenceSettings, TrainerSettings, WorkerSettings)
    for service in services:
        store = read(service, BUCKET).store
        assert (store.is_s3, store.bucket, store.prefix) == (True, "pictures", "handful/")
        assert (store.s3_endpoint, store.s3_secret_key) == ("http://127.0.0.1:9000", "sesame")
        assert "sesame" not in repr(store)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *[("STORE", text) for text in ("s3://", "s3://Upper", "s3://a", "s3://a.b.c", "s3://abc/../x", "s3://abc//x")],
        *[("STORE", text) for text in ("S3://abc", "gs://abc", "file://here", "https://s3.example.org/abc")],
        *[("S3_ENDPOINT", text) for text in ("", "127.0.0.1:9000", "ftp://host", "http://", "http://host:port")],
        *[
            ("S3_ENDPOINT", text)
            for text in ("http://host/path", "http://me:pw@host", "http://host:99999", "http://a?b")
        ],
        *[("S3_REGION", text) for text in ("here and there", "EU!")],
        *[("S3_ACCESS_KEY", ""), ("S3_SECRET_KEY", ""), ("STORE_SECONDS", "-1"), ("STORE_SECONDS", "soon")],
    ],
)
def test_a_store_that_cannot_be_is_refused(variable: str, text: str) -> None:
    """What is wrong about the store is told beside everything else that is wrong, and one variable by itself."""
    with pytest.raises(BadSettings) as refused:
        read(DatasetSettings, {**BUCKET, f"HANDFUL_{variable}": text, "HANDFUL_DECODERS": "0"})
    lines = str(refused.value).splitlines()
    assert [line.split("=")[0].split(" ")[0] for line in lines] == [f"HANDFUL_{variable}", "HANDFUL_DECODERS"]


@pytest.mark.parametrize("settings", [DatasetSettings, InferenceSettings, TrainerSettings, WorkerSettings])
def test_every_service_starts_without_a_variable(settings: type[Any]) -> None:
    """An empty environment is enough, and services listen on this machine alone."""
    given = read(settings, {})
    addresses = [getattr(given, field.name) for field in fields(settings) if field.name.endswith("_address")]
    assert all(address.startswith("127.0.0.1:") for address in addresses if address)


def test_the_home_folder_is_the_users() -> None:
    """HANDFUL_HOME may begin with `~`, as every other folder may; unset, it is `~/.handful`."""
    print_home = "from services.shared.settings import home; print(home())"
    for given, expected in (("~/here", Path("/users/me/here")), ("", Path("/users/me/.handful"))):
        environment = {"HANDFUL_HOME": given, "HOME": "/users/me"}
        command = [sys.executable, "-c", print_home]
        printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        assert Path(printed.stdout.decode().strip()) == expected


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HANDFUL_LOG_LEVEL", "loud"),
        ("HANDFUL_STORE", "ftp://x"),
        ("HANDFUL_STORE", "/dev/null/x"),
    ],
)
def test_a_service_that_cannot_start_says_so_in_a_line(variable: str, text: str, tmp_path: Path) -> None:
    """A bad setting ends a service with status 2 and one line, without a traceback."""
    environment = {"HANDFUL_HOME": str(tmp_path), "HANDFUL_DATASET_ADDRESS": "127.0.0.1:0", variable: text}
    service = [sys.executable, "-m", "services.dataset"]
    ended = subprocess.run(service, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 2, ended.stderr.decode()
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("dataset: ")
    assert text in line
