"""`handful doctor`: what it finds, what it says to do, and that nothing keeps it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from handful.cli.stack import Stack, free_ports
from tests.e2e.test_cli import handful
from tests.minio_server import READER, MinioServer
from tests.postgres_server import PostgresServer
from tests.processes import of_home, until

# For a machine that has other things to do as well.
SECONDS = 60


def examine(home: Path, **environment: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """The exit code, and the findings by check."""
    bare = {name: "" for name in os.environ if name.startswith("HANDFUL_") and not name.startswith("HANDFUL_TEST")}
    ended = handful("doctor", "--json", "--seconds", SECONDS, **{**bare, "HANDFUL_HOME": str(home), **environment})
    report = json.loads(ended.stdout)
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["check"], []).append((finding["status"], finding["says"]))
    assert report["healthy"] is (ended.returncode == 0)
    return ended.returncode, found


def nowhere() -> dict[str, str]:
    """Addresses at which nobody listens."""
    names = ("HANDFUL_DATASET", "HANDFUL_TRAINER", "HANDFUL_INFERENCE", "HANDFUL_WORKER_ADDRESS")
    return dict.fromkeys(names, f"127.0.0.1:{free_ports(1)[0]}")


def broken(found: dict[str, list[tuple[str, str]]]) -> list[str]:
    """The checks that found something broken."""
    return [check for check, findings in found.items() if any(status == "broken" for status, _ in findings)]


def test_a_fresh_installation_lacks_the_services_alone(tmp_path: Path) -> None:
    """Where everything is installed and nothing was started yet, nothing is broken, every check has spoken, and the
    services are missing; nothing was made.
    """
    code, found = examine(tmp_path / "home", **nowhere())
    assert code == 1
    assert {check for check, findings in found.items() for status, _ in findings if status != "ok"} == {
        *("dataset", "trainer", "inference", "worker"),
    }
    assert not list(tmp_path.iterdir())
    assert found.keys() == {
        *("python", "parts", "settings", "store", "database", "weights", "device", "yolo"),
        *("dataset", "trainer", "inference", "worker"),
    }
    assert found["parts"] == [("ok", "complete: dataset, trainer, worker, inference")]
    assert found["store"][0] == ("ok", f"{tmp_path / 'home' / 'store'} is made at the first start")
    assert [says for _, says in found["database"]] == [
        f"{name}: {tmp_path / 'home' / name}.sqlite is made at the first start" for name in ("dataset", "trainer")
    ]
    assert "efficientnet_lite0" in found["weights"][0][1]
    assert "here: efficientnet_lite0, " in found["weights"][0][1]
    assert {"efficientnet_b0", "vit_b_16"} <= set(found["weights"][0][1].partition("can be fetched: ")[2].split(", "))
    assert all("nothing listens" in found[name][0][1] for name in ("dataset", "trainer", "inference", "worker"))
    assert [found[name][0][0] for name in ("dataset", "trainer", "inference")] == ["missing"] * 3


def test_services_that_run_are_well(stack: Stack) -> None:
    """Beside running services the doctor sees them serve, reads their databases, and disturbs nobody."""
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(stack.addresses).items()}
    before = set(stack.home.rglob("*"))
    code, found = examine(stack.home, HANDFUL_WORKER_ADDRESS=stack.worker_address, **addresses)
    assert code == 0, found
    for name in ("dataset", "trainer", "inference", "worker"):
        assert found[name][0][0] == "ok"
        assert found[name][0][1].endswith(" serves")
    assert all(status == "ok" and says.endswith(" answers") for status, says in found["database"])
    assert found["store"][0] == ("ok", f"{stack.home / 'store'} can be read and written")
    assert not [path for path in set(stack.home.rglob("*")) - before if "doctor" in str(path)]


def test_a_service_that_hangs_is_found(own_stack: Stack) -> None:
    """A service that is stopped in its tracks keeps the doctor no longer than any other."""
    with own_stack:
        process = own_stack._processes["dataset"]
        process.send_signal(signal.SIGSTOP)
        try:
            addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(own_stack.addresses).items()}
            code, found = examine(own_stack.home, **addresses)
        finally:
            process.send_signal(signal.SIGCONT)
    assert code == 1
    assert found["dataset"] == [
        ("broken", f"{own_stack.addresses.dataset} does not answer; see its log, and start it again")
    ]


def test_it_ends_in_time(tmp_path: Path) -> None:
    """What takes longer than one is ready to wait is said to give no answer."""
    ended = handful("doctor", "--json", "--seconds", "0.01", HANDFUL_HOME=str(tmp_path))
    assert ended.returncode == 1
    says = [finding["says"] for finding in json.loads(ended.stdout)["findings"]]
    assert any(one.startswith("no answer within 0 s") for one in says)


def asked(home: Path) -> list[int]:
    """The processes in which a doctor of that home asks the services' code."""
    return [pid for pid, command in of_home(home).items() if "-m services.doctor" in command]


def test_what_was_not_examined_is_not_well(tmp_path: Path) -> None:
    """Where the services' own code is too slow, each of its checks is said to be unanswered, and nothing is well."""
    command = [str(Path(sys.executable).parent / "handful"), "doctor", "--json", "--seconds", "4"]
    environment = {**os.environ, **nowhere(), "HANDFUL_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as doctor:
        until(lambda: asked(tmp_path) != [], "the services' code is asked")
        os.kill(asked(tmp_path)[0], signal.SIGSTOP)
        report = json.loads(doctor.communicate(timeout=60)[0])
    said = {finding["check"]: (finding["status"], finding["says"]) for finding in report["findings"]}
    for check in ("settings", "store", "database", "weights", "device"):
        assert said[check][0] == "broken"
        assert said[check][1].startswith("no answer within 4 s; if this machine is busy")
    assert (report["healthy"], doctor.returncode) == (False, 1)


def test_strangers_and_nonsense_are_told_apart(tmp_path: Path) -> None:
    """A port that another program has, an address that is none, and a host that nobody knows are each said."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        threading.Thread(target=_hang_up, args=(stranger,), daemon=True).start()
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        given = {"HANDFUL_DATASET": taken, "HANDFUL_TRAINER": "nonsense", "HANDFUL_INFERENCE": "handful.invalid:7103"}
        code, found = examine(tmp_path, **(nowhere() | given))
    assert code == 1
    assert found["dataset"] == [
        ("broken", f"something listens on {taken} that is not ours; stop it, or set another HANDFUL_DATASET")
    ]
    assert found["trainer"] == [("broken", "HANDFUL_TRAINER=nonsense: must be host:port")]
    assert found["inference"][0][0] == "missing"
    assert "handful.invalid:7103 cannot be reached" in found["inference"][0][1]


def _hang_up(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connection.close()


@pytest.mark.parametrize(
    ("environment", "check", "words"),
    [
        ({"HANDFUL_STORE": "/dev/null/x"}, "store", "/dev/null/x cannot be created in /dev/null: it is no folder"),
        ({"HANDFUL_WORKER_THREADS": "many", "HANDFUL_DECODERS": "0"}, "settings", "HANDFUL_WORKER_THREADS='many'"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, environment: dict[str, str], check: str, words: str) -> None:
    """A store or a setting that cannot be used is said by name."""
    code, found = examine(tmp_path, **(nowhere() | environment))
    assert code == 1
    assert any(status == "broken" and words in says for status, says in found[check]), found


def test_servers_that_say_nothing_are_named(tmp_path: Path) -> None:
    """A database and a store that take connections and never answer are broken, in time, and no secret is said."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        given = {
            "HANDFUL_DATASET_DATABASE": f"postgresql://x:secret@{address}/x",
            "HANDFUL_STORE": "s3://handful",
            "HANDFUL_S3_ENDPOINT": f"http://{address}",
            "HANDFUL_S3_ACCESS_KEY": "x",
            "HANDFUL_S3_SECRET_KEY": "secret",
        }
        code, found = examine(tmp_path, **(nowhere() | given))
    assert code == 1
    assert any(status == "broken" and address in says for status, says in found["database"]), found["database"]
    assert [status for status, _ in found["store"]] == ["broken"]
    assert "secret" not in json.dumps(found)


def test_a_database_that_is_none_is_found(tmp_path: Path) -> None:
    """A file that is no database, and a database of a newer Handful, are broken; neither is changed."""
    (tmp_path / "dataset.sqlite").write_bytes(b"these are not the pages of a database" * 100)
    with sqlite3.connect(tmp_path / "trainer.sqlite") as newer:
        newer.execute("CREATE TABLE alembic_version (version_num TEXT)")
        newer.execute("INSERT INTO alembic_version VALUES ('9999')")
    newer.close()
    before = [(tmp_path / name).read_bytes() for name in ("dataset.sqlite", "trainer.sqlite")]
    code, found = examine(tmp_path, **nowhere())
    assert code == 1
    (_, dataset), (_, trainer) = found["database"]
    assert "dataset.sqlite cannot be used: file is not a database" in dataset
    assert "made by a newer Handful: its revision is 9999" in trainer
    assert [(tmp_path / name).read_bytes() for name in ("dataset.sqlite", "trainer.sqlite")] == before


def test_servers_elsewhere(minio: MinioServer, postgres: PostgresServer, tmp_path: Path) -> None:
    """A bucket that can be written and a database that answers are well; a bucket may be readable only."""
    url = postgres.database()
    databases = {"HANDFUL_DATASET_DATABASE": url, "HANDFUL_TRAINER_DATABASE": url}
    _, found = examine(tmp_path, **(nowhere() | minio.environment() | databases))
    assert broken(found) == []
    assert [status for status, _ in found["store"]] == ["ok"]
    assert all(says.endswith(" answers") for _, says in found["database"])
    assert str(urlsplit(url).password) not in json.dumps(found)
    _, found = examine(tmp_path, **(nowhere() | minio.environment(READER)))
    assert (broken(found), found["store"][0][0]) == ([], "warn")
    assert "enough for inference" in found["store"][0][1]


def test_where_the_services_are_not_installed(tmp_path: Path) -> None:
    """A client alone is no fault: that the services are not here is said, as no more than a warning."""
    arguments = ["doctor", "--json", "--seconds", str(SECONDS)]
    program = f"import sys; sys.modules['services'] = None; from handful.cli.main import main; main({arguments})"
    environment = {**os.environ, "HANDFUL_HOME": str(tmp_path), **nowhere()}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    findings: list[dict[str, Any]] = json.loads(ended.stdout)["findings"]
    warned = [finding["says"] for finding in findings if finding["status"] == "warn"]
    assert any("only the client is installed" in one for one in warned)
    assert {finding["check"] for finding in findings if finding["status"] not in ("ok", "warn")} == {
        *("dataset", "trainer", "inference"),
    }
    assert not any(finding["check"] == "store" for finding in findings)
