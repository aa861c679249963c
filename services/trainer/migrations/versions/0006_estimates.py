"""Where nothing is known of how long a run takes, no number says so: until now it was 60 seconds, which stood for runs
that had taken as long, too. Whoever scales workers counts on 60 seconds as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# As in revision 0004, but for runs without an estimate. Replaced, not made anew: who may read it still may.
WORKER_DEMAND = """
CREATE OR REPLACE VIEW worker_demand AS
WITH clock AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us
), runs AS (
    SELECT state, worker_id, create_time_us, start_time_us, coalesce(estimated_seconds, 60) AS seconds
    FROM training_runs
), waiting AS (
    SELECT count(*) AS n, coalesce(sum(seconds), 0) AS seconds
    FROM runs, clock
    WHERE state IN (1, 3) AND create_time_us < us - 15 * 1000000
), running AS (
    SELECT worker_id, kind, abs(seconds - (us - start_time_us) / 1000000.0) AS remaining
    FROM runs LEFT JOIN workers USING (worker_id), clock
    WHERE state IN (2, 4)
), held AS (
    SELECT count(*) AS n FROM running WHERE kind = 2
), free AS (
    SELECT count(*) AS n
    FROM workers, clock
    WHERE kind = 1 AND seen_us > us - 30 * 1000000 AND worker_id NOT IN (SELECT worker_id FROM running)
), spare AS (
    SELECT coalesce(sum(greatest(0, 300 - remaining)), 0) + 300 * (SELECT n FROM free) AS seconds FROM running
)
SELECT (held.n + least(waiting.n, ceil(greatest(0, waiting.seconds - spare.seconds) / 300)))::int AS jobs_wanted
FROM held, waiting, spare
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE training_runs "
            "ALTER COLUMN estimated_seconds DROP NOT NULL, ALTER COLUMN estimated_seconds DROP DEFAULT"
        )
        op.execute("UPDATE training_runs SET estimated_seconds = NULL WHERE estimated_seconds = 60")
        op.execute(WORKER_DEMAND)
    else:
        _replace(sa.Column("estimated_seconds", sa.Float), "nullif(replaced, 60)")


def downgrade() -> None:
    """The view stays as it is, and says the same."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("UPDATE training_runs SET estimated_seconds = 60 WHERE estimated_seconds IS NULL")
        op.execute(
            "ALTER TABLE training_runs "
            "ALTER COLUMN estimated_seconds SET DEFAULT 60, ALTER COLUMN estimated_seconds SET NOT NULL"
        )
    else:
        given = sa.Column("estimated_seconds", sa.Float, nullable=False, server_default="60")
        _replace(given, "coalesce(replaced, 60)")


def _replace(column: sa.Column[float], value: str) -> None:
    """A new column for the old one: SQLite can change none, and a table that others refer to is not made anew."""
    op.execute("ALTER TABLE training_runs RENAME COLUMN estimated_seconds TO replaced")
    op.add_column("training_runs", column)
    op.execute(f"UPDATE training_runs SET estimated_seconds = {value}")  # noqa: S608 - a text of ours
    op.drop_column("training_runs", "replaced")
