"""The tables of the trainer, as its newest migration leaves them."""

import sqlalchemy as sa

from services.shared.answers import requests_table
from services.shared.database import text

metadata = sa.MetaData()
training_runs = sa.Table(
    "training_runs",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("run", text(36), primary_key=True),
    # What was asked for.
    sa.Column("model", text(63), nullable=False),
    sa.Column("dataset_version", text(256), nullable=False),
    sa.Column("dataset_manifest_sha256", text(64), nullable=False),
    # As a worker has settled it; before, and in the other, as it was asked for. NULL in rows of earlier releases.
    sa.Column("recipe", sa.LargeBinary, nullable=False),
    sa.Column("asked_recipe", sa.LargeBinary),
    sa.Column("promote", sa.Boolean, nullable=False),
    sa.Column("request_id", text(128), nullable=False),
    sa.Column("create_time_us", sa.BigInteger, nullable=False),
    # The version to measure, where nothing is to be trained.
    sa.Column("evaluated_version", sa.Integer),
    sa.Column("evaluated_manifest_sha256", text(64)),
    # Where it stands.
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("failure", sa.LargeBinary),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    # How far the work at hand is; only the latest.
    sa.Column("progress", sa.LargeBinary),
    # How long it is likely to take, as far as was known when it was asked for; NULL where nothing was.
    sa.Column("estimated_seconds", sa.Float),
    sa.Column("latest_sequence", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("evaluation_sha256", text(64)),
    sa.Column("start_time_us", sa.BigInteger),
    sa.Column("finish_time_us", sa.BigInteger),
    # Who is on it: every write of a worker is fenced by attempt and token.
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("num_lost", sa.Integer, nullable=False),
    sa.Column("token", text(64)),
    sa.Column("claim_id", text(64)),
    sa.Column("worker_id", text(128)),
    sa.Column("lease_expires_us", sa.BigInteger),
    sa.Column("committed_worker_sequence", sa.BigInteger, nullable=False),
    # Where the next attempt continues from.
    sa.Column("checkpoint_key", text(512)),
    sa.Column("checkpoint_sha256", text(64)),
    sa.Column("checkpoint_epoch", sa.Integer),
    # The run that it goes on from, after which epoch, and what other data the weights have learnt from.
    sa.Column("continued_run", text(36)),
    sa.Column("continued_epoch", sa.Integer),
    sa.Column("earlier_manifests", sa.JSON),
    sa.Index("ix_training_runs_state", "state", "create_time_us"),
    sa.Index("ix_training_runs_created", "project", "create_time_us"),
)
# Who asked for work lately.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", text(128), primary_key=True),
    sa.Column("kind", sa.Integer, nullable=False),
    sa.Column("capabilities", sa.LargeBinary, nullable=False),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("run", text(36), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["project", "run"], ["training_runs.project", "training_runs.run"], name="fk_events_run"),
)
models = sa.Table(
    "models",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("model", text(63), primary_key=True),
    sa.Column("latest_version", sa.Integer, nullable=False),
    sa.Column("create_time_us", sa.BigInteger, nullable=False),
)
model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("model", text(63), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("manifest_sha256", text(64), nullable=False),
    # NULL where it was imported.
    sa.Column("run", text(36)),
    sa.Column("dataset_version", text(256)),
    sa.Column("recipe", sa.LargeBinary, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("create_time_us", sa.BigInteger, nullable=False),
    # The zip, where it was imported.
    sa.Column("imported_from_sha256", text(64)),
    sa.ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"], name="fk_model_versions_model"),
)
aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("model", text(63), primary_key=True),
    sa.Column("alias", text(63), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["project", "model", "version"],
        ["model_versions.project", "model_versions.model", "model_versions.number"],
        name="fk_aliases_version",
    ),
)
# One row per project that has models: how often its models, versions and aliases changed.
generations = sa.Table(
    "generations",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
)
requests = requests_table(metadata)
