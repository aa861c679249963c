"""Runs that measure a model version instead of training one."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("training_runs") as table:
        table.add_column(sa.Column("evaluated_version", sa.Integer))
        table.add_column(sa.Column("evaluated_manifest_sha256", text(64)))
        table.add_column(sa.Column("evaluation_sha256", text(64)))


def downgrade() -> None:
    with op.batch_alter_table("training_runs") as table:
        for column in ("evaluated_version", "evaluated_manifest_sha256", "evaluation_sha256"):
            table.drop_column(column)
