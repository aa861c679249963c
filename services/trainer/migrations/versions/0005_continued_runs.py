"""Runs that go on from the last checkpoint of another one."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("training_runs") as table:
        table.add_column(sa.Column("continued_run", text(36)))
        table.add_column(sa.Column("continued_epoch", sa.Integer))
        table.add_column(sa.Column("earlier_manifests", sa.JSON))


def downgrade() -> None:
    with op.batch_alter_table("training_runs") as table:
        for column in ("continued_run", "continued_epoch", "earlier_manifests"):
            table.drop_column(column)
