"""Tables brought to the newest revision of a service's Alembic folder, in one transaction: wholly or not at all."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.shared.settings import CannotStart


class DatabaseTooNew(CannotStart):
    """A newer Handful has changed the tables already."""


def migrate(engine: sa.Engine, migrations: Path, schema: str | None = None) -> None:
    """Upgrades, on PostgreSQL within a schema; replicas that start together do it one after another."""
    with engine.connect() as connection, connection.begin():
        if schema is not None:
            _enter(connection, schema)
        config = configuration(connection, migrations)
        _check_known(connection, config)
        command.upgrade(config, "head")


def check(engine: sa.Engine, migrations: Path, schema: str | None = None) -> None:
    """CannotStart where `migrate` would find the database of no use. Nothing is changed."""
    with engine.connect() as connection, connection.begin():
        if schema is not None:
            _check_encoding(connection)
            connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")
        _check_known(connection, configuration(connection, migrations))


def configuration(connection: sa.Connection, migrations: Path) -> Config:
    """What Alembic's commands need to work on this connection."""
    config = Config()
    # ConfigParser takes % for the start of a reference.
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def run() -> None:
    """What a service's `migrations/env.py` does when Alembic runs it."""
    context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def _enter(connection: sa.Connection, schema: str) -> None:
    _check_encoding(connection)
    connection.exec_driver_sql("SET LOCAL lock_timeout = '30s'")
    lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"migrations of {schema}", 0))
    connection.execute(sa.select(lock))
    # Looked for first: who may not create a schema may use one that is there.
    if connection.execute(sa.select(sa.func.to_regnamespace(schema))).scalar_one() is None:
        connection.execute(sa.schema.CreateSchema(schema))
    connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")


def _check_encoding(connection: sa.Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise CannotStart(
            f"The database's encoding is {encoding}, which does not hold every text. Create one with ENCODING 'UTF8'."
        )


def _check_known(connection: sa.Connection, config: Config) -> None:
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise DatabaseTooNew(
            f"The database was made by a newer Handful: its revision is {', '.join(sorted(unknown))}, this one knows "
            f"{', '.join(sorted(known))}. Upgrade Handful; the database is as it was."
        )
