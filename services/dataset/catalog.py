"""Datasets, examples and versions in SQL. It knows no messages but the ones it is given to keep."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.errors import AlreadyExists, NotFound
from handful.v1 import bundle_pb2
from services.dataset.records import (
    ClassCount,
    DatasetKey,
    DatasetRecord,
    ExampleRecord,
    Notice,
    VersionRecord,
    split_bit,
)
from services.dataset.tables import datasets, examples, requests, versions
from services.shared.answers import kept, once
from services.shared.database import Database, alone, newest_first, open_database
from services.shared.identifiers import now_us

MIGRATIONS = Path(__file__).parent / "migrations"
Response = TypeVar("Response", bound=Message)
# Of what is there instead of what is not.
_SHOWN = 10


class CatalogReader:
    """What can be asked within a transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def dataset(self, key: DatasetKey) -> DatasetRecord:
        found = await self._rows(sa.select(datasets).filter_by(**_of(key)))
        if not found:
            there = ", ".join(one.key.dataset for one in await self.datasets(key.project, _SHOWN, None)) or "none yet"
            raise NotFound(f"There is no dataset {key.dataset} in projects/{key.project}. Datasets there: {there}.")
        return (await self._with_labels(found))[0]

    async def datasets(self, project: str, limit: int, before: Sequence[Any] | None) -> list[DatasetRecord]:
        query = sa.select(datasets).filter_by(project=project)
        order = (datasets.c.create_time_us, datasets.c.dataset)
        return await self._with_labels(await self._rows(newest_first(query, order, limit, before)))

    async def examples(
        self, key: DatasetKey, limit: int | None = None, before: Sequence[Any] | None = None
    ) -> list[ExampleRecord]:
        query = sa.select(examples).filter_by(**_of(key))
        order = (examples.c.create_time_us, examples.c.example)
        return [_example(row) for row in await self._rows(newest_first(query, order, limit, before))]

    async def examples_by_content(self, key: DatasetKey, contents: Sequence[str]) -> list[ExampleRecord]:
        """One example of each content that there is, in the order asked for."""
        query = sa.select(examples).filter_by(**_of(key)).where(examples.c.content_sha256.in_(contents))
        found = {row.content_sha256: _example(row) for row in await self._rows(query)}
        return [found[content] for content in dict.fromkeys(contents) if content in found]

    async def examples_by_upload(self, key: DatasetKey, label: str, upload_sha256: str) -> list[ExampleRecord]:
        """The examples that these very bytes became before."""
        query = sa.select(examples).filter_by(**_of(key), label=label, upload_sha256=upload_sha256)
        order = (examples.c.create_time_us, examples.c.example)
        return [_example(row) for row in await self._rows(query.order_by(*order))]

    async def version(self, key: DatasetKey, number: int) -> VersionRecord:
        found = await self._rows(sa.select(versions).filter_by(**_of(key), number=number))
        if not found:
            raise NotFound(f"There is no dataset version {key.name}/versions/{number}.")
        return _version(found[0])

    async def versions(self, key: DatasetKey, limit: int, before: Sequence[Any] | None) -> list[VersionRecord]:
        query = sa.select(versions).filter_by(**_of(key))
        return [_version(row) for row in await self._rows(newest_first(query, (versions.c.number,), limit, before))]

    async def _with_labels(self, rows: Sequence[Any]) -> list[DatasetRecord]:
        records = []
        for row in rows:
            key = DatasetKey(row.project, row.dataset)
            query = sa.select(examples.c.label, sa.func.count().label("num")).filter_by(**_of(key))
            counted = await self._rows(query.group_by(examples.c.label).order_by(examples.c.label))
            labels = {count.label: count.num for count in counted}
            records.append(DatasetRecord(key, row.modality, row.create_time_us, labels))
        return records

    async def _rows(self, query: Any) -> Sequence[Any]:
        return (await self._connection.execute(query)).all()


class CatalogWriter(CatalogReader):
    """What can be changed within a transaction."""

    async def add_dataset(self, key: DatasetKey, modality: "bundle_pb2.Modality.ValueType") -> DatasetRecord:
        record = DatasetRecord(key, modality, now_us())
        row = {**_of(key), "modality": modality, "create_time_us": record.create_time_us}
        try:
            await self._connection.execute(sa.insert(datasets).values(row))
        except IntegrityError:
            raise AlreadyExists(f"There is a dataset {key.name} already.") from None
        return record

    async def add_examples(self, key: DatasetKey, records: Sequence[ExampleRecord]) -> list[ExampleRecord]:
        """The examples of these contents and labels: the ones that were there, or these."""
        # In one order: two uploads of the same pieces would wait for each other otherwise.
        for label, content in sorted({(one.label, one.content_sha256) for one in records}):
            await alone(self._connection, key.name, label, content)
        return [await self._add_example(key, record) for record in records]

    async def _add_example(self, key: DatasetKey, record: ExampleRecord) -> ExampleRecord:
        same = sa.select(examples).filter_by(**_of(key), label=record.label, content_sha256=record.content_sha256)
        found = await self._rows(same)
        if found:
            return _example(found[0])
        await self._connection.execute(sa.insert(examples).values(**_of(key), **dataclasses.asdict(record)))
        return record

    async def join(self, key: DatasetKey, found: Sequence[ExampleRecord], group: str) -> list[ExampleRecord]:
        """Examples of one label as they are in the group, which all that their files were cut into joins. What was
        given another group before keeps it.
        """
        await alone(self._connection, key.name, "groups")
        given = sa.and_(examples.c.group != "", examples.c.group != examples.c.upload_sha256)
        theirs = examples.c.upload_sha256.in_({one.upload_sha256 for one in found})
        joining = sa.update(examples).filter_by(**_of(key), label=found[0].label).where(theirs, sa.not_(given))
        await self._connection.execute(joining.values({examples.c.group: group}))
        ids = [one.example for one in found]
        query = sa.select(examples).filter_by(**_of(key)).where(examples.c.example.in_(ids))
        joined = {row.example: _example(row) for row in await self._rows(query)}
        return [joined[id_] for id_ in ids]

    async def note_split(
        self, key: DatasetKey, found: Sequence[ExampleRecord], split: "bundle_pb2.Split.ValueType"
    ) -> None:
        """Adds a split to what examples were uploaded for, whatever else is added at the same time."""
        theirs = examples.c.example.in_([one.example for one in found])
        noting = sa.update(examples).filter_by(**_of(key)).where(theirs)
        added = examples.c.also_split.bitwise_or(split_bit(split))
        await self._connection.execute(noting.values(also_split=added))

    async def add_version(self, key: DatasetKey, record: VersionRecord) -> VersionRecord:
        """The version of this manifest: the one that was there, or this one under the next number."""
        await alone(self._connection, key.name, "versions")
        same = sa.select(versions).filter_by(**_of(key), manifest_sha256=record.manifest_sha256)
        found = await self._rows(same)
        if found:
            return _version(found[0])
        latest = sa.select(sa.func.coalesce(sa.func.max(versions.c.number), 0)).filter_by(**_of(key))
        number = (await self._connection.execute(latest)).scalar_one() + 1
        row = {
            "number": number,
            "manifest_sha256": record.manifest_sha256,
            "modality": record.modality,
            "classes": [dataclasses.asdict(one) for one in record.classes],
            "notices": [dataclasses.asdict(one) for one in record.notices],
            "create_time_us": record.create_time_us,
        }
        await self._connection.execute(sa.insert(versions).values(**_of(key), **row))
        return await self.version(key, number)


class Catalog:
    """What datasets there are and what is in them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, database: str) -> "Catalog":
        """The catalog in a SQLite file or at a postgresql:// URL."""
        return cls(await open_database(database, "dataset", MIGRATIONS))

    async def close(self) -> None:
        await self._database.close()

    async def once(
        self, request: Any, response: type[Response], effect: Callable[[CatalogWriter], Awaitable[Response]]
    ) -> Response:
        """Runs the effect in one transaction, or gives the answer that an equal request got before."""
        async with self._database.write() as connection:
            writer = CatalogWriter(connection)
            return await once(connection, requests, request, response, lambda: effect(writer))

    async def kept(self, request: Any, response: type[Response]) -> Response | None:
        """The answer that an equal request got before, if any."""
        async with self._database.read() as connection:
            return await kept(connection, requests, request, response)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[CatalogWriter]:
        """One transaction."""
        async with self._database.write() as connection:
            yield CatalogWriter(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[CatalogReader]:
        """One state."""
        async with self._database.read() as connection:
            yield CatalogReader(connection)


def _of(key: DatasetKey) -> dict[str, str]:
    return {"project": key.project, "dataset": key.dataset}


def _example(row: Any) -> ExampleRecord:
    return ExampleRecord(**{field.name: getattr(row, field.name) for field in dataclasses.fields(ExampleRecord)})


def _version(row: Any) -> VersionRecord:
    return VersionRecord(
        number=row.number,
        manifest_sha256=row.manifest_sha256,
        modality=row.modality,
        classes=tuple(ClassCount(**one) for one in row.classes),
        notices=tuple(Notice(**one) for one in row.notices),
        create_time_us=row.create_time_us,
    )
