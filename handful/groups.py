"""What files belong to, such as a speaker or a recording: by a pattern in their names, or by a list of them."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from handful.errors import InvalidArgument

# What a list is called at its end; a pattern has parentheses.
_LIST = ".csv"
_COLUMNS = ("file", "group")


def groups_of(files: Sequence[Path], folder: Path, how: str) -> list[str]:
    """The group of each file. `how` is a regular expression with one pair of parentheses, found in every file's name:
    what they match is the group; or a CSV file with the columns `file`, the path within the folder, and `group`.
    InvalidArgument where a file has none.
    """
    if how.lower().endswith(_LIST) and "(" not in how:
        listed = _listed(Path(how))
        inside = [file.relative_to(folder).as_posix() for file in files]
        return _complete(inside, [listed.get(one, "") for one in inside], f"{how} has no group for", "files")
    expression = _expression(how)
    names = [file.name for file in files]
    matches = [expression.search(name) for name in names]
    return _complete(names, [match[1] or "" if match else "" for match in matches], "matches nothing in", "names")


def _complete(files: Sequence[str], groups: list[str], problem: str, what: str) -> list[str]:
    missed = [file for file, group in zip(files, groups, strict=True) if not group]
    if missed:
        raise _bad(f"{problem} {len(missed)} {what}, such as {missed[0]}")
    return groups


def _expression(pattern: str) -> "re.Pattern[str]":
    try:
        expression = re.compile(pattern)
    except re.error as problem:
        raise _bad(f"is no regular expression: {problem}") from None
    if expression.groups != 1:
        raise _bad(f"must have one pair of parentheses around the group, not {expression.groups}: '_([a-z]+)_'")
    return expression


def _listed(file: Path) -> dict[str, str]:
    """Groups by file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if not set(_COLUMNS) <= set(rows.fieldnames or ()):
                raise _bad(f"{file} must begin with the line {','.join(_COLUMNS)}")
            return {row["file"]: (row["group"] or "").strip() for row in rows}
    except FileNotFoundError:
        raise _bad(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise _bad(f"{file} cannot be read as a CSV file in UTF-8") from None


def _bad(problem: str) -> InvalidArgument:
    return InvalidArgument.fields([("groups", problem)])
