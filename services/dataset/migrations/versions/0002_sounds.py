"""Sounds: their rate and length, and what an example belongs to."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("sample_rate", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("duration_us", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("group", text(256), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        for column in ("group", "duration_us", "sample_rate"):
            table.drop_column(column)
