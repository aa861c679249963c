"""Runs, events, models, versions, aliases and kept answers."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "training_runs",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("run", text(36), primary_key=True),
        sa.Column("model", text(63), nullable=False),
        sa.Column("dataset_version", text(256), nullable=False),
        sa.Column("dataset_manifest_sha256", text(64), nullable=False),
        sa.Column("recipe", sa.LargeBinary, nullable=False),
        sa.Column("promote", sa.Boolean, nullable=False),
        sa.Column("request_id", text(128), nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("failure", sa.LargeBinary),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("latest_sequence", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("start_time_us", sa.BigInteger),
        sa.Column("finish_time_us", sa.BigInteger),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("num_lost", sa.Integer, nullable=False),
        sa.Column("token", text(64)),
        sa.Column("claim_id", text(64)),
        sa.Column("worker_id", text(128)),
        sa.Column("lease_expires_us", sa.BigInteger),
        sa.Column("committed_worker_sequence", sa.BigInteger, nullable=False),
        sa.Column("checkpoint_key", text(512)),
        sa.Column("checkpoint_sha256", text(64)),
        sa.Column("checkpoint_epoch", sa.Integer),
    )
    op.create_index("ix_training_runs_state", "training_runs", ["state", "create_time_us"])
    op.create_index("ix_training_runs_created", "training_runs", ["project", "create_time_us"])
    op.create_table(
        "events",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("run", text(36), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "run"], ["training_runs.project", "training_runs.run"], name="fk_events_run"
        ),
    )
    op.create_table(
        "models",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("model", text(63), primary_key=True),
        sa.Column("latest_version", sa.Integer, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "model_versions",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("model", text(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("manifest_sha256", text(64), nullable=False),
        sa.Column("run", text(36), nullable=False),
        sa.Column("dataset_version", text(256), nullable=False),
        sa.Column("recipe", sa.LargeBinary, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name="fk_model_versions_model"
        ),
    )
    op.create_table(
        "aliases",
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
    op.create_table(
        "generations",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("method", text(64), primary_key=True),
        sa.Column("parent", text(256), primary_key=True),
        sa.Column("request_id", text(64), primary_key=True),
        sa.Column("request_sha256", text(64), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("requests", "generations", "aliases", "model_versions", "models", "events", "training_runs"):
        op.drop_table(table)
