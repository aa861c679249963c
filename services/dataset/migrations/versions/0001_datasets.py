"""Datasets, examples, versions and kept answers."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("dataset", text(63), primary_key=True),
        sa.Column("modality", sa.Integer, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "examples",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("dataset", text(63), primary_key=True),
        sa.Column("example", text(36), primary_key=True),
        sa.Column("label", text(128), nullable=False),
        sa.Column("split", sa.Integer, nullable=False),
        sa.Column("filename", text(256), nullable=False),
        sa.Column("upload_sha256", text(64), nullable=False),
        sa.Column("content_sha256", text(64), nullable=False),
        sa.Column("media_type", text(32), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "dataset", "label", "content_sha256", name="uq_examples_content"),
        sa.ForeignKeyConstraint(
            ["project", "dataset"], ["datasets.project", "datasets.dataset"], name="fk_examples_dataset"
        ),
    )
    op.create_index("ix_examples_upload", "examples", ["project", "dataset", "label", "upload_sha256"])
    op.create_table(
        "versions",
        sa.Column("project", text(63), primary_key=True),
        sa.Column("dataset", text(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("manifest_sha256", text(64), nullable=False),
        sa.Column("modality", sa.Integer, nullable=False),
        sa.Column("classes", sa.JSON, nullable=False),
        sa.Column("notices", sa.JSON, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "dataset", "manifest_sha256", name="uq_versions_manifest"),
        sa.ForeignKeyConstraint(
            ["project", "dataset"], ["datasets.project", "datasets.dataset"], name="fk_versions_dataset"
        ),
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
    for table in ("requests", "versions", "examples", "datasets"):
        op.drop_table(table)
