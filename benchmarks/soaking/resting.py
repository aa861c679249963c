"""What a server holds when it has nothing to do."""

import asyncio
import time
from pathlib import Path

from services.shared import allocating
from tests.inference_process import InferenceProcess

IDLE_SECONDS, PATIENCE_SECONDS = 1.0, 60.0
# Twice over what was freed is given back within it.
LOOKING_SECONDS, LOOKS = 2.5 * allocating.SECONDS, 20


async def seen(server: InferenceProcess) -> tuple[int, int, int]:
    """Resident bytes, descriptors and threads: the least of a few seconds, once it has finished."""
    await _finished(server)
    found = []
    for _ in range(LOOKS):
        await asyncio.sleep(LOOKING_SECONDS / LOOKS)
        found.append((server.memory_bytes, _count(server, "fd"), _count(server, "task")))
    memory, descriptors, threads = map(min, zip(*found, strict=True))
    return memory, descriptors, threads


async def _finished(server: InferenceProcess) -> None:
    """Until no thread of it wants a processor for a while: on a busy machine one that yields to the others may still
    decode a picture whose caller went away long ago.
    """
    since = time.monotonic()
    ends = since + PATIENCE_SECONDS
    while time.monotonic() < min(ends, since + IDLE_SECONDS):
        await asyncio.sleep(0.1)
        if _wants_a_processor(server):
            since = time.monotonic()


def _wants_a_processor(server: InferenceProcess) -> bool:
    threads = [one.read_text() for one in Path(f"/proc/{server.pid}/task").glob("*/stat")]
    return any(one.rpartition(")")[2].split()[0] == "R" for one in threads)


def _count(server: InferenceProcess, what: str) -> int:
    return len(list(Path(f"/proc/{server.pid}/{what}").iterdir()))
