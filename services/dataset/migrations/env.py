"""What Alembic runs: this service's revisions, on the connection that `services.shared.migrating` gives it."""

from services.shared.migrating import run

run()
