"""What replicas have to know of each other's workers; and, for whoever scales workers, how many Jobs are wanted.

jobs_wanted = held + min(n, ceil(max(0, S - spare) / 300)), where a Job is worth starting for 300 seconds of work:
held   runs that Jobs have;
n, S   runs that have waited for 15 seconds, and the seconds they will take;
spare  seconds within the next 300 in which the workers there are will have nothing to do: of one that has a run what is
       left of 300 after it, of a free one that is always there all 300. A run that takes longer than was thought is
       expected to take as long again as it is over its time.
Numbers of states and kinds are those of the contract. Only PostgreSQL has the view: a SQLite file is one machine's.
"""

import sqlalchemy as sa
from alembic import op

from services.shared.database import text

revision = "0004"
down_revision = "0003"

WORKER_DEMAND = """
CREATE VIEW worker_demand AS
WITH clock AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us
), waiting AS (
    SELECT count(*) AS n, coalesce(sum(estimated_seconds), 0) AS seconds
    FROM training_runs, clock
    WHERE state IN (1, 3) AND create_time_us < us - 15 * 1000000
), running AS (
    SELECT worker_id, kind, abs(estimated_seconds - (us - start_time_us) / 1000000.0) AS remaining
    FROM training_runs LEFT JOIN workers USING (worker_id), clock
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
    op.create_table(
        "workers",
        sa.Column("worker_id", text(128), primary_key=True),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("capabilities", sa.LargeBinary, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
    )
    with op.batch_alter_table("training_runs") as table:
        table.add_column(sa.Column("progress", sa.LargeBinary))
        table.add_column(sa.Column("estimated_seconds", sa.Float, nullable=False, server_default="60"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(WORKER_DEMAND)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP VIEW worker_demand")
    with op.batch_alter_table("training_runs") as table:
        table.drop_column("estimated_seconds")
        table.drop_column("progress")
    op.drop_table("workers")
