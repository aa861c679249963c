"""Models, their versions and aliases in SQL, and the pointer object that tells inference about them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.errors import NotFound
from handful.v1.bundle_pb2 import ProjectPointer, Recipe
from services.shared.database import alone, newest_first
from services.shared.identifiers import now_us
from services.trainer.records import ModelKey, ModelRecord, ModelVersionRecord, NewModelVersion
from services.trainer.tables import aliases, generations, model_versions, models

PRODUCTION = "production"


async def publish(connection: AsyncConnection, new: NewModelVersion) -> int:
    """Adds the next version of a model; the first sets the alias `production`. Its number."""
    key = new.key
    await alone(connection, "models", key.project)
    latest = sa.select(models.c.latest_version).where(_of(models, key))
    number = ((await connection.execute(latest)).scalar_one_or_none() or 0) + 1
    row = {"project": key.project, "model": key.model}
    if number == 1:
        await connection.execute(sa.insert(models).values(**row, latest_version=1, create_time_us=now_us()))
    else:
        await connection.execute(sa.update(models).where(_of(models, key)).values(latest_version=number))
    version = {
        "number": number,
        "manifest_sha256": new.manifest_sha256,
        "run": new.run,
        "dataset_version": new.dataset_version,
        "recipe": new.recipe.SerializeToString(),
        "labels": list(new.labels),
        "metrics": list(new.metrics),
        "imported_from_sha256": new.imported_from_sha256,
        "create_time_us": now_us(),
    }
    await connection.execute(sa.insert(model_versions).values(**row, **version))
    if number == 1 or new.promote:
        await _point(connection, key, PRODUCTION, number)
    await _touch(connection, key.project)
    return number


async def set_alias(connection: AsyncConnection, key: ModelKey, alias: str, number: int) -> ModelRecord:
    await alone(connection, "models", key.project)
    await version(connection, key, number)
    await _point(connection, key, alias, number)
    await _touch(connection, key.project)
    return await get(connection, key)


async def get(connection: AsyncConnection, key: ModelKey) -> ModelRecord:
    found = await _records(connection, sa.select(models).where(_of(models, key)))
    if not found:
        raise NotFound(f"There is no model {key.name}.")
    return found[0]


async def page(
    connection: AsyncConnection, project: str, limit: int, before: Sequence[Any] | None
) -> list[ModelRecord]:
    """The newest models, or the newest before a (create_time_us, model)."""
    query = sa.select(models).where(models.c.project == project)
    order = (models.c.create_time_us, models.c.model)
    return await _records(connection, newest_first(query, order, limit, before))


async def version(connection: AsyncConnection, key: ModelKey, number: int) -> ModelVersionRecord:
    query = sa.select(model_versions).where(_of(model_versions, key), model_versions.c.number == number)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"There is no model version {key.name}/versions/{number}.")
    return _version(row)


async def aliased(connection: AsyncConnection, key: ModelKey, alias: str) -> ModelVersionRecord:
    """The version that an alias means."""
    model = await get(connection, key)
    if alias not in model.aliases:
        known = ", ".join(model.aliases) or "none"
        raise NotFound(f"{key.name} has no alias {alias}; it has: {known}.")
    return await version(connection, key, model.aliases[alias])


async def version_page(
    connection: AsyncConnection, key: ModelKey, limit: int, before: Sequence[Any] | None
) -> list[ModelVersionRecord]:
    """The newest versions, or the newest before a (number,)."""
    query = sa.select(model_versions).where(_of(model_versions, key))
    rows = await connection.execute(newest_first(query, (model_versions.c.number,), limit, before))
    return [_version(row) for row in rows]


async def projects(connection: AsyncConnection) -> dict[str, int]:
    """Every project that has models, with its generation."""
    rows = await connection.execute(sa.select(generations))
    return {row.project: row.generation for row in rows}


async def pointer(connection: AsyncConnection, project: str) -> ProjectPointer:
    """What inference is told about a project: one state, since it is one statement."""
    versions = generations.join(model_versions, generations.c.project == model_versions.c.project)
    query = (
        sa.select(generations.c.generation, model_versions, aliases.c.alias)
        .select_from(versions.outerjoin(aliases))
        .where(generations.c.project == project)
    )
    made = ProjectPointer()
    for row in await connection.execute(query):
        made.generation = row.generation
        made.models[row.model].versions[row.number] = row.manifest_sha256
        if row.alias is not None:
            made.models[row.model].aliases[row.alias] = row.number
    return made


async def _point(connection: AsyncConnection, key: ModelKey, alias: str, number: int) -> None:
    await connection.execute(sa.delete(aliases).where(_of(aliases, key), aliases.c.alias == alias))
    row = {"project": key.project, "model": key.model, "alias": alias, "version": number}
    await connection.execute(sa.insert(aliases).values(row))


async def _touch(connection: AsyncConnection, project: str) -> None:
    mine = generations.c.project == project
    next_one = sa.update(generations).where(mine).values(generation=generations.c.generation + 1)
    if not (await connection.execute(next_one)).rowcount:
        await connection.execute(sa.insert(generations).values(project=project, generation=1))


async def _records(connection: AsyncConnection, query: Any) -> list[ModelRecord]:
    records = []
    for row in (await connection.execute(query)).all():
        key = ModelKey(row.project, row.model)
        named = await connection.execute(sa.select(aliases).where(_of(aliases, key)).order_by(aliases.c.alias))
        records.append(
            ModelRecord(key, row.latest_version, {one.alias: one.version for one in named}, row.create_time_us)
        )
    return records


def _of(table: sa.Table, key: ModelKey) -> Any:
    return sa.and_(table.c.project == key.project, table.c.model == key.model)


def _version(row: Any) -> ModelVersionRecord:
    return ModelVersionRecord(
        key=ModelKey(row.project, row.model),
        number=row.number,
        manifest_sha256=row.manifest_sha256,
        run=row.run,
        dataset_version=row.dataset_version,
        recipe=Recipe.FromString(row.recipe),
        labels=tuple(row.labels),
        metrics=tuple((name, value) for name, value in row.metrics),
        create_time_us=row.create_time_us,
        imported_from_sha256=row.imported_from_sha256,
    )
