"""Claims runs and has them trained, one at a time, until it is told to stop."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import grpc
import structlog

from handful.channel import connect
from handful.errors import from_rpc_error
from handful.v1.worker_pb2 import Capabilities, Claim, ClaimTrainingRunRequest
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared import allocating, parent
from services.shared.identifiers import new_id
from services.shared.objects import open_store
from services.shared.objects.retrying import RetryingStore
from services.trainer.architectures import ARCHITECTURES, with_members
from services.trainer.sound_architectures import can_be_had
from services.trainer.understanding import known
from services.trainer.worker import backbones, health
from services.trainer.worker.children import Children
from services.trainer.worker.parts import can_build, has_torch, has_yolo
from services.trainer.worker.pretrained import Place, PretrainedWeights, opened
from services.trainer.worker.settings import WorkerSettings
from services.trainer.worker.shift import Shift
from services.trainer.worker.tidying import Tidying
from services.trainer.worker.work import Work, begin

log = structlog.get_logger()

CLAIM_TIMEOUT_SECONDS = 20.0
RETRY_SECONDS = 1.0
KINDS = {"warm": Capabilities.KIND_WARM, "job": Capabilities.KIND_JOB}


def work(settings: WorkerSettings) -> None:
    """Until SIGTERM, which hands the run at hand back and ends the process, or the end of the shift or of the parent's
    pipe, before which the run at hand is finished.
    """
    store = RetryingStore(open_store(settings.store), settings.store.store_seconds)
    shift = Shift(settings.worker_idle_seconds, settings.worker_max_seconds)
    if settings.parent_pipe:
        parent.when_gone(shift.end)
    weights, preparing = opened(settings), Children()
    tidying = Tidying(store, settings.worker_features_kept)
    prepared = (store, weights, settings.default_architecture, preparing)
    threading.Thread(target=backbones.prepare, args=prepared, daemon=True).start()
    threading.Thread(target=_session, daemon=True).start()
    worker_id = f"{settings.name}-{os.getpid()}-{new_id()[-6:]}"
    structlog.contextvars.bind_contextvars(worker_id=worker_id)
    with health.answered(settings.worker_health_address), connect(settings.worker_trainer) as channel:
        stub = WorkerServiceStub(channel)
        at_hand: list[Work] = []
        signal.signal(signal.SIGTERM, lambda *_: _go(at_hand, preparing))
        log.info("worker ready", trainer=settings.worker_trainer, threads=settings.threads)
        while not shift.is_over:
            claim = _claim(stub, worker_id, partial(_capabilities, settings.worker_kind, weights), shift)
            if claim is not None:
                structlog.contextvars.bind_contextvars(request_id=claim.request_id)
                at_hand.append(begin(stub, claim, store, weights, settings.threads, settings.cache))
                _session().run(at_hand[0])
                tidying.after_run(at_hand.pop().project)
                gc.collect()
                allocating.trim()  # else a quick run's peak is that of the network trained before it
                shift.worked()
                structlog.contextvars.unbind_contextvars("request_id")
    preparing.end()
    log.info("worker ends")


def _session() -> ModuleType:
    """What trains. Its imports take seconds: a claim does not wait for them, and who claims first has them done."""
    from services.trainer.worker import session

    return session


def _go(at_hand: list[Work], preparing: Children) -> NoReturn:
    """Ends the process at once, and its children. The run at hand is handed back."""
    preparing.end()
    for one in at_hand:
        one.children.end()
        one.reporter.release()
    os._exit(0)


def _claim(
    stub: WorkerServiceStub, worker_id: str, capabilities: Callable[[], Capabilities], shift: Shift
) -> Claim | None:
    """A run, or None where the shift is over first. The claim id is kept until an answer came."""
    request = ClaimTrainingRunRequest(worker_id=worker_id, claim_id=new_id())
    while not shift.is_over:
        request.capabilities.CopyFrom(capabilities())  # weights may have come in the meantime
        try:
            answer = stub.ClaimTrainingRun(request, timeout=CLAIM_TIMEOUT_SECONDS)
        except grpc.RpcError as problem:
            error = from_rpc_error(problem)
            log.warning("no answer to a claim, trying again", reason=error.reason, message=error.message)
            time.sleep(RETRY_SECONDS)
        else:
            if answer.HasField("claim"):
                return answer.claim
    return None


def _capabilities(kind: str, weights: PretrainedWeights) -> Capabilities:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = has_torch()
    device = "cuda" if torch and Path("/dev/nvidiactl").exists() else "cpu"
    places = {
        id_: at for id_, at in weights.places().items() if id_ not in ARCHITECTURES or can_build(ARCHITECTURES[id_])
    }
    files = {id_ for id_, place in places.items() if place in (Place.PACKAGE, Place.STORE)}
    sources = {id_ for id_, place in places.items() if place == Place.SOURCE}
    here, anywhere = (with_members(had) | can_be_had(had) for had in (files, files | sources))
    return Capabilities(
        device=device,
        memory_bytes=memory,
        pretrained=sorted(here),
        fetchable=sorted(anywhere - here),
        kind=KINDS[kind],
        lacks_torch=not torch,
        has_yolo=has_yolo(),
        understands=sorted(known()),
    )
