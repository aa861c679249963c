"""That a content was uploaded to train and to validate, whichever came first."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("also_split", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.drop_column("also_split")
