"""Model versions that were imported: no run and no dataset version of ours made them."""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("model_versions") as table:
        table.alter_column("run", existing_type=sa.String(36), nullable=True)
        table.alter_column("dataset_version", existing_type=sa.String(256), nullable=True)
        table.add_column(sa.Column("imported_from_sha256", text(64)))


def downgrade() -> None:
    op.execute("UPDATE model_versions SET run = coalesce(run, ''), dataset_version = coalesce(dataset_version, '')")
    with op.batch_alter_table("model_versions") as table:
        table.drop_column("imported_from_sha256")
        table.alter_column("dataset_version", existing_type=sa.String(256), nullable=False)
        table.alter_column("run", existing_type=sa.String(36), nullable=False)
