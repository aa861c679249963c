"""The demo as a product runs it: artefacts in a bucket, rows in PostgreSQL, inference with keys that only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from services.shared.objects import StoreRefused, open_store
from tests.minio_server import READER, MinioServer
from tests.postgres_server import PostgresServer

HANDFUL = "from handful.cli.main import main; main()"


@pytest.mark.timeout(600)
def test_the_demo_runs_on_a_bucket_and_postgresql(tmp_path: Path, photographs: Path) -> None:
    """It passes; the bucket then holds every kind of artefact, PostgreSQL the rows, and who only reads cannot write."""
    with MinioServer(tmp_path / "minio") as minio, PostgresServer() as postgres:
        minio.provision()
        database = postgres.empty_database()
        databases = {"HANDFUL_DATASET_DATABASE": database, "HANDFUL_TRAINER_DATABASE": database}
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from handful.cli.main import main; main()",
                "demo",
                "--json",
                "--data",
                photographs,
            ],
            env={**os.environ, **minio.environment(), **databases},
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["val_accuracy"] >= 0.97
        assert report["export"]["self_test"] == "passed"
        assert "projects/demo-" in done.stderr

        store = open_store(minio.settings(READER))
        keys = list(store.keys(""))
        kinds = {key.split("/")[2] for key in keys if key.startswith("projects/")}
        assert kinds >= {"blobs", "manifests", "features", "bundles", "exports", "aliases.json"}
        assert any(key.startswith("backbones/") for key in keys)
        with pytest.raises(StoreRefused):
            store.put("projects/default/blobs/mine", b"not allowed")
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM dataset.examples").fetchone() == (300,)
            assert connection.execute("SELECT count(*) FROM trainer.model_versions").fetchone() == (1,)
