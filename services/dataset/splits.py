"""Which examples train and which validate. Pure: the same examples always give the same split.

Equal contents form a group, also under different labels, and so do examples that were said to belong together and the
pieces of a recording. A group is never divided.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from handful.v1 import bundle_pb2
from services.dataset.records import ExampleRecord

VAL_SHARE = 0.2

Groups = dict[str, list[ExampleRecord]]


def groups(examples: Sequence[ExampleRecord]) -> dict[str, str]:
    """The group of every content, by content_sha256: the smallest content_sha256 in it, so that equal content is
    grouped equally whatever its groups were called.
    """
    first: dict[str, str] = {}

    def of(content: str) -> str:
        while first.setdefault(content, content) != content:
            first[content] = first[first[content]]
            content = first[content]
        return content

    named: dict[str, str] = {}
    for example in examples:
        mine = of(example.content_sha256)
        if example.group:
            other = of(named.setdefault(example.group, mine))
            first[max(mine, other)] = min(mine, other)
    return {content: of(content) for content in first}


def assign(examples: Sequence[ExampleRecord]) -> dict[str, "bundle_pb2.Split.ValueType"]:
    """The split of every content, by content_sha256.

    Where someone uploaded examples for `val`, the split is theirs: what carries none trains, and a content or group
    that was uploaded for both trains, so that nothing is measured on what it was fitted on. Otherwise a fifth of every
    class validates, at least one, and at least one trains, as far as groups allow.
    """
    group_of, members = groups(examples), defaultdict(list)
    for example in examples:
        members[group_of[example.content_sha256]].append(example)
    if any(bundle_pb2.SPLIT_VAL in example.uploaded_for for example in examples):
        splits = {group: _as_uploaded(those) for group, those in members.items()}
    else:
        splits = _stratified(members)
    return {content: splits[group] for content, group in group_of.items()}


def _as_uploaded(members: Sequence[ExampleRecord]) -> "bundle_pb2.Split.ValueType":
    only_val = all(member.uploaded_for == {bundle_pb2.SPLIT_VAL} for member in members)
    return bundle_pb2.SPLIT_VAL if only_val else bundle_pb2.SPLIT_TRAIN


def _stratified(members: Groups) -> dict[str, "bundle_pb2.Split.ValueType"]:
    free = {group: Counter(one.label for one in those) for group, those in members.items() if _is_free(those)}
    total: Counter[str] = sum(free.values(), Counter())
    wanted = {label: min(max(1, round(VAL_SHARE * count)), count - 1) for label, count in total.items()}
    splits = dict.fromkeys(members, bundle_pb2.SPLIT_TRAIN)
    taken: Counter[str] = Counter()
    # By hash, not by position: adding examples moves few of the others to another split.
    for group in sorted(free, key=_order):
        if all(_has_room(taken[label], count, wanted[label], total[label]) for label, count in free[group].items()):
            splits[group] = bundle_pb2.SPLIT_VAL
            taken += free[group]
    return splits


def _is_free(members: Sequence[ExampleRecord]) -> bool:
    """Whether a group may validate. A content under several labels contradicts itself: it is no measure of anything."""
    contents = {member.content_sha256 for member in members}
    return len(contents) == len(members) and not any(one.uploaded_for for one in members)


def _has_room(taken: int, count: int, wanted: int, total: int) -> bool:
    """Whether a class that lacks validation examples may have all of a group's, which may be more than it lacks."""
    return taken < wanted and taken + count <= max(wanted, total // 2)


def _order(content: str) -> str:
    return hashlib.sha256(f"split:{content}".encode()).hexdigest()
