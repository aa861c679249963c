"""Recipes as they were asked for: what a worker settles does not change what later runs are like."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("training_runs", sa.Column("asked_recipe", sa.LargeBinary))


def downgrade() -> None:
    op.drop_column("training_runs", "asked_recipe")
