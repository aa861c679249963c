"""The tables of the dataset service, as its newest migration leaves them."""

import sqlalchemy as sa

from services.shared.answers import requests_table
from services.shared.database import text

metadata = sa.MetaData()
datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("project", text(63), primary_key=True),
    sa.Column("dataset", text(63), primary_key=True),
    sa.Column("modality", sa.Integer, nullable=False),
    sa.Column("create_time_us", sa.BigInteger, nullable=False),
)
examples = sa.Table(
    "examples",
    metadata,
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
    sa.Column("sample_rate", sa.Integer, nullable=False, server_default="0"),
    sa.Column("duration_us", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("group", text(256), nullable=False, server_default=""),
    sa.Column("also_split", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("project", "dataset", "label", "content_sha256", name="uq_examples_content"),
    sa.ForeignKeyConstraint(
        ["project", "dataset"], ["datasets.project", "datasets.dataset"], name="fk_examples_dataset"
    ),
    sa.Index("ix_examples_upload", "project", "dataset", "label", "upload_sha256"),
)
versions = sa.Table(
    "versions",
    metadata,
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
requests = requests_table(metadata)
