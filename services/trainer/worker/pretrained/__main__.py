"""`python -m services.trainer.worker.pretrained`: what `handful weights` asks for. It answers in JSON, a line each.

Every object has the `id` of an architecture; what went wrong with its weights is its `problem`, and the exit code is 1.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from handful.errors import InvalidArgument
from services.shared import start
from services.trainer.architectures import NOT_OFFERED, find
from services.trainer.worker.pretrained import (
    PINNED,
    Pinned,
    Place,
    PretrainedWeights,
    WeightsUnavailable,
    offered,
    opened,
)
from services.trainer.worker.settings import WorkerSettings

Answer = dict[str, Any]


def main() -> None:
    given = _parse()
    start.run("weights", WorkerSettings, partial(_answer, given))


def _answer(given: argparse.Namespace, settings: WorkerSettings) -> None:
    weights, problems = opened(settings, looking=True), 0
    given.kept_in = settings.weights_store.store
    for answer in given.command(weights, given):
        problems += "problem" in answer
        _say(answer)
    sys.exit(1 if problems else 0)


def _list(weights: PretrainedWeights, given: argparse.Namespace) -> Iterator[Answer]:
    for id_, place in weights.places().items():
        known = offered(PINNED[id_])
        yield {
            "id": id_,
            "place": place,
            "kept_in": given.kept_in,
            "source": weights.address(PINNED[id_]) or known.source,
            "max_bytes": known.max_bytes,
            "license": known.license,
            "license_note": known.license_note,
            "sha256": known.sha256,
        }


def _fetch(weights: PretrainedWeights, given: argparse.Namespace) -> Iterator[Answer]:
    for row in _rows(given.ids):
        if row.weights is None:
            yield {"id": row.id, "problem": NOT_OFFERED.format(row.id)}
            continue
        of = row.weights.max_bytes

        def step(received: int, row: Pinned = row, of: int = of) -> None:
            _say({"id": row.id, "received": received, "of": of})

        yield _tried(row, partial(weights.fetch, row, step), weights)


def _import(weights: PretrainedWeights, given: argparse.Namespace) -> Iterator[Answer]:
    rows = list(_rows([given.id]))
    if len(rows) > 1:
        each = ", ".join(row.id for row in rows)
        yield {"id": given.id, "problem": f"It is networks that have a file each. Import them one by one, as {each}."}
        return
    yield _tried(rows[0], partial(weights.add, rows[0], given.file), weights)


def _verify(weights: PretrainedWeights, _: argparse.Namespace) -> Iterator[Answer]:
    for id_, place in weights.places().items():
        if place in (Place.PACKAGE, Place.STORE):
            row = PINNED[id_]
            yield _tried(row, partial(weights.verify, row), weights)


def _tried(row: Pinned, task: partial[None], weights: PretrainedWeights) -> Answer:
    try:
        task()
    except WeightsUnavailable as problem:
        return {"id": row.id, "problem": str(problem)}
    except OSError as problem:
        return {"id": row.id, "problem": f"{problem.filename}: {problem.strerror}"}
    return {"id": row.id, "place": weights.places()[row.id]}


def _rows(ids: Iterable[str]) -> Iterator[Pinned]:
    """What has weights, those of several networks one by one, and architectures that have none."""
    for id_ in ids:
        try:
            yield from [PINNED[id_]] if id_ in PINNED else find(id_, "architecture").networks
        except InvalidArgument as problem:
            _say({"id": id_, "problem": problem.message})
            sys.exit(1)


def _say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - that is what it is for


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services.trainer.worker.pretrained")
    adding = parser.add_subparsers(required=True)
    for name, command in (("list", _list), ("fetch", _fetch), ("import", _import), ("verify", _verify)):
        adding.add_parser(name).set_defaults(command=command)
    adding.choices["fetch"].add_argument("ids", nargs="+")
    adding.choices["import"].add_argument("file", type=Path)
    adding.choices["import"].add_argument("--as", dest="id", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
