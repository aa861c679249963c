"""How many Jobs KEDA makes: the query of the manifests, asked of a real PostgreSQL by the user that the guide makes."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from services.shared.settings import read
from services.trainer.worker.settings import WorkerSettings
from tests.deploy.manifests import named, needs_kubectl, overlay
from tests.postgres_server import PostgresServer

GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"
PASSWORD = "0123456789abcdef"  # noqa: S105 - of a user that this test makes


@pytest.fixture
def keda(postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    """A database with the trainer's tables, as the user that the guide makes for KEDA sees it."""
    url = sa.make_url(postgres.database())
    (statements,) = re.findall(r"<<SQL\n(.*?)\nSQL", GUIDE.read_text(), re.DOTALL)
    statements = statements.replace("$KEDA", PASSWORD).replace("DATABASE trainer", f"DATABASE {url.database}")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as owner:
        for statement in statements.split(";\n"):
            owner.execute(statement.encode())
        try:
            users = url.set(username="keda", password=PASSWORD).render_as_string(hide_password=False)
            with psycopg.connect(users, autocommit=True) as connection:
                yield connection
        finally:
            owner.execute("DROP OWNED BY keda")
            owner.execute("DROP ROLE keda")
    postgres.drop(postgres.url(url.database or ""))


@needs_kubectl
def test_keda_learns_how_many_jobs_are_wanted(keda: psycopg.Connection) -> None:
    """The manifests' query gives one number: none while nothing waits."""
    (trigger,) = named(overlay("gke"), "ScaledJob", "trainer-worker")["spec"]["triggers"]
    assert keda.execute(trigger["metadata"]["query"].encode()).fetchall() == [(0,)]


@pytest.mark.parametrize("statement", ["SELECT * FROM trainer.training_runs", "SELECT * FROM dataset.datasets"])
def test_keda_sees_nothing_else(keda: psycopg.Connection, statement: str) -> None:
    """Its user may read the view, and no table below or beside it."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        keda.execute(statement.encode())


@needs_kubectl
def test_kueue_has_a_quota_for_all_that_a_job_asks_for() -> None:
    """A resource without a quota would keep every Job waiting for ever; KEDA's Jobs carry the queue's name."""
    manifests = overlay("everything")
    (group,) = named(manifests, "ClusterQueue", "handful-training")["spec"]["resourceGroups"]
    scaled = named(manifests, "ScaledJob", "trainer-worker")
    resources = scaled["spec"]["jobTargetRef"]["template"]["spec"]["containers"][0]["resources"]
    asked = resources["requests"].keys() | resources["limits"].keys()
    assert asked <= set(group["coveredResources"])
    assert group["coveredResources"] == [one["name"] for one in group["flavors"][0]["resources"]]
    queue = named(manifests, "LocalQueue", scaled["metadata"]["labels"]["kueue.x-k8s.io/queue-name"])
    assert queue["spec"]["clusterQueue"] == "handful-training"


@needs_kubectl
def test_a_job_knows_that_it_is_one() -> None:
    """Labels and annotations alone tell a Job's pods from the warm worker's, and it reads them there."""
    manifests = overlay("gke")
    warm = named(manifests, "Deployment", "trainer-worker")["spec"]["template"]
    job = named(manifests, "ScaledJob", "trainer-worker")["spec"]["jobTargetRef"]["template"]
    told = []
    for template in (warm, job):
        metadata = template["metadata"]
        environment = {}
        for variable in template["spec"]["containers"][0]["env"]:
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
                environment[variable["name"]] = metadata.get(found[1], {}).get(found[2], "")
        settings = read(WorkerSettings, environment)
        told.append((settings.worker_kind, settings.worker_idle_seconds, settings.worker_max_seconds))
    assert told == [("warm", 0, 0), ("job", 90, 3600)]
