"""Where checkpoints lie, and removing those that are of no use any more. Of a run that is over the last one stays, for
whoever goes on from it. One that cannot be removed is litter, and no reason to fail.
"""

from collections.abc import Collection, Iterable

import structlog

from handful.v1.worker_pb2 import Claim
from services.shared.objects import ObjectStore, StoreUnavailable

log = structlog.get_logger()


def key(claim: Claim, epoch: int) -> str:
    """Where the checkpoint of an epoch lies: below what is its attempt's own."""
    return f"{_folder(claim)}/{claim.attempt}/checkpoints/{epoch}.pt"


def remove(store: ObjectStore, keys: Iterable[str]) -> None:
    """Removes some."""
    for one in keys:
        try:
            store.delete(one)
        except StoreUnavailable as problem:
            log.warning("checkpoint not removed", key=one, problem=str(problem))


def is_own(claim: Claim) -> bool:
    """Whether the claim's checkpoint is of the run itself, and not of one that it goes on from."""
    return claim.checkpoint.key.startswith(f"{_folder(claim)}/")


def remove_others(store: ObjectStore, claim: Claim, kept: Collection[str]) -> None:
    """Removes those of every attempt at a run that is over, but for some."""
    try:
        remove(store, [one for one in store.keys(f"{_folder(claim)}/") if "/checkpoints/" in one and one not in kept])
    except StoreUnavailable as problem:
        log.warning("checkpoints not removed", training_run=claim.training_run, problem=str(problem))


def _folder(claim: Claim) -> str:
    _, project, _, run = claim.training_run.split("/")
    return f"projects/{project}/runs/{run}/attempts"
