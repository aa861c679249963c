"""Which examples train and which validate. Pure: the same examples always give the same split.

Equal contents form a group, also under different labels, and a group is never divided.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from handful.v1 import bundle_pb2
from services.dataset.records import ExampleRecord

VAL_SHARE = 0.2


def assign(examples: Sequence[ExampleRecord]) -> dict[str, "bundle_pb2.Split.ValueType"]:
    """The split of every group, by content_sha256.

    Where someone uploaded examples for `val`, the split is theirs: what carries none trains, and a content that was
    uploaded for both trains, so that nothing is measured on what it was fitted on. Otherwise a fifth of every class
    validates, at least one, and at least one trains.
    """
    groups: dict[str, list[ExampleRecord]] = defaultdict(list)
    for example in examples:
        groups[example.content_sha256].append(example)
    if any(example.split == bundle_pb2.SPLIT_VAL for example in examples):
        return {content: _as_uploaded(members) for content, members in groups.items()}
    return _stratified(groups)


def _as_uploaded(members: Sequence[ExampleRecord]) -> "bundle_pb2.Split.ValueType":
    only_val = all(member.split == bundle_pb2.SPLIT_VAL for member in members)
    return bundle_pb2.SPLIT_VAL if only_val else bundle_pb2.SPLIT_TRAIN


def _stratified(groups: dict[str, list[ExampleRecord]]) -> dict[str, "bundle_pb2.Split.ValueType"]:
    by_label: dict[str, list[str]] = defaultdict(list)
    for content, members in groups.items():
        free = all(member.split == bundle_pb2.SPLIT_UNSPECIFIED for member in members)
        # A content under several labels contradicts itself: it is no measure of anything.
        if free and len(members) == 1:
            by_label[members[0].label].append(content)
    splits = dict.fromkeys(groups, bundle_pb2.SPLIT_TRAIN)
    for contents in by_label.values():
        num_val = min(max(1, round(VAL_SHARE * len(contents))), len(contents) - 1)
        # By hash, not by position: adding examples moves few of the others to another split.
        for content in sorted(contents, key=_order)[:num_val]:
            splits[content] = bundle_pb2.SPLIT_VAL
    return splits


def _order(content: str) -> str:
    return hashlib.sha256(f"split:{content}".encode()).hexdigest()
