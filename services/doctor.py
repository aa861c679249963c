"""`python -m services.doctor SECONDS`: what the services would find here: settings, store, databases, weights, device.

A JSON object per finding, as `handful doctor` reads them. In a bucket it writes and removes an object, since nothing
else says whether it may; everything else is only looked at, and nothing is made. It stands above the services, and
knows several.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from services.shared import cores, logs
from services.shared.database import look
from services.shared.identifiers import new_id
from services.shared.objects import StoreRefused, StoreSettings, StoreUnavailable, filesystem, open_store
from services.shared.settings import BadSettings, CannotStart, read

PROGRAM_SECONDS = 30.0
FREE_BYTES = 2 * 1024**3
OK, WARN, BROKEN = "ok", "warn", "broken"
_TORCH = "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else '')"

Finding = tuple[str, str]
_saying = threading.Lock()


def settings() -> Iterator[Finding]:
    from services.dataset.settings import DatasetSettings
    from services.inference.settings import InferenceSettings
    from services.trainer.settings import TrainerSettings
    from services.trainer.worker.settings import WorkerSettings

    problems: dict[str, None] = {}
    for service in (DatasetSettings, TrainerSettings, WorkerSettings, InferenceSettings):
        try:
            read(service)
        except BadSettings as problem:
            problems |= dict.fromkeys(str(problem).splitlines())
    yield from ((BROKEN, problem) for problem in problems)
    if not problems:
        yield OK, "the environment adds up"


def store() -> Iterator[Finding]:
    given = read(StoreSettings)
    if given.is_s3:
        yield _bucket(given)
        return
    yield OK, filesystem.look(given.folder)
    if filesystem.free_bytes(given.folder) < FREE_BYTES:
        yield WARN, f"{given.folder} has less than {FREE_BYTES / 1e9:.0f} GB left; make room before you train"


def _bucket(given: StoreSettings) -> Finding:
    opened, probe = open_store(replace(given, store_seconds=0)), f"doctor/{new_id()}"
    try:
        opened.put(probe, b"written by handful doctor")
        opened.delete(probe)
    except StoreRefused as problem:
        next(opened.keys("doctor/"), None)
        return WARN, f"{given.store} can be read only, which is enough for inference alone: {problem}"
    return OK, f"{given.store} can be read and written"


def databases() -> Iterator[Finding]:
    from services.dataset.settings import DatasetSettings
    from services.trainer.settings import TrainerSettings

    for name, where in (("dataset", read(DatasetSettings).database), ("trainer", read(TrainerSettings).database)):
        try:
            yield OK, f"{name}: {look(where, name, Path(__file__).parent / name / 'migrations')}"
        except CannotStart as problem:
            yield BROKEN, f"{name}: {problem} (HANDFUL_{name.upper()}_DATABASE says where it is)"


def weights() -> Iterator[Finding]:
    from services.trainer.worker.pretrained import Place, opened
    from services.trainer.worker.settings import WorkerSettings

    given = read(WorkerSettings)
    places = opened(given, looking=True).places()
    here = [id_ for id_, place in places.items() if place in (Place.PACKAGE, Place.STORE)]
    shown = f"here: {', '.join(here) or 'none'}"
    fetchable = [id_ for id_, place in places.items() if place == Place.SOURCE]
    if fetchable:
        shown += f"; can be fetched: {', '.join(fetchable)}"
    default = given.default_architecture
    if default in here:
        yield OK, shown
    else:
        yield WARN, f"{shown}. The default, {default}, is not here: `handful weights` says where it comes from"


def device() -> Iterator[Finding]:
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") if shutil.which("nvidia-smi") else None
    if find_spec("torch") is None:
        unused = f" The GPU that is here ({gpus}) is for torch alone." if gpus else ""
        trained = f"presets fast and quality on {', '.join(_without_torch()) or 'no architecture'}"
        yield WARN, f"torch is not installed: {trained} are trained all the same; for all else: `make setup`.{unused}"
        return
    found = _output(sys.executable, "-c", _TORCH)
    if found is None:
        yield WARN, "torch does not load: `python -c 'import torch'` says why"
        return
    version, _, name = found.partition(" ")
    if name:
        yield OK, f"torch {version} on {name}"
    elif gpus:
        yield WARN, f"torch {version} cannot use the GPU that is here ({gpus}): see that its driver fits torch's CUDA"
    else:
        yield OK, f"torch {version} on {cores.usable()} CPU cores, without a GPU: `fast` takes seconds"


def _without_torch() -> list[str]:
    """The architectures whose pretrained weights a package here carries, and whose graph is built without torch."""
    from services.trainer.architectures import ARCHITECTURES
    from services.trainer.worker.parts import can_build

    return [row.id for row in ARCHITECTURES.values() if row.weights and row.weights.locate() and can_build(row)]


def yolo() -> Iterator[Finding]:
    from services.trainer.worker.parts import NoYolo, has_yolo
    from services.trainer.worker.yolo import bodies

    if not has_yolo():
        yield OK, "Ultralytics is not installed, so no YOLO trains here; it is the extra `yolo`, and AGPL-3.0 software"
        return
    try:
        yield OK, f"ultralytics {bodies.version()}, which is AGPL-3.0 software, as what it trains is said to be"
    except NoYolo as problem:
        yield WARN, str(problem)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "settings": settings,
    "store": store,
    "database": databases,
    "weights": weights,
    "device": device,
    "yolo": yolo,
}


def main(seconds: float) -> None:
    """Says what is found, and after so many seconds what has not ended."""
    logs.configure("doctor", "error")
    threads = {name: threading.Thread(target=_check, args=(name,), daemon=True) for name in CHECKS}
    for thread in threads.values():
        thread.start()
    ends = time.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, ends - time.monotonic()))
        if thread.is_alive():
            # Torch alone may take that long where a machine is busy.
            _say(name, WARN if name in {"device", "yolo"} else BROKEN, f"no answer within {seconds:.0f} s")
    os._exit(0)  # whatever still waits for an answer


def _check(name: str) -> None:
    try:
        for status, says in CHECKS[name]():
            _say(name, status, says)
    except BadSettings:
        pass  # said by `settings`
    except ModuleNotFoundError as missing:
        _say(name, WARN, f"{missing.name} is not installed here; `make setup` installs everything")
    except (CannotStart, StoreUnavailable) as problem:
        _say(name, BROKEN, str(problem))


def _say(check: str, status: str, says: str) -> None:
    with _saying:
        sys.stdout.write(json.dumps({"check": check, "status": status, "says": says}) + "\n")
        sys.stdout.flush()


def _output(*command: str) -> str | None:
    """What a program prints; None where it fails or takes too long."""
    try:
        ended = subprocess.run(  # noqa: S603 - no words of others
            command, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


if __name__ == "__main__":
    main(float(sys.argv[1]))
