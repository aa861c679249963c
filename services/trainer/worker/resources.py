"""What a run uses of the worker: seconds of each phase, and memory. It knows nothing of what the phases do."""

import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from handful.v1.bundle_pb2 import Resources

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# What the kernel takes as "forget the peak": proc_pid_clear_refs(5).
_FORGET_PEAK = "5"


class Usage:
    """Of one run, from now on."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._phase = ""
        self._apart = (0, 0)
        self._began = time.perf_counter()
        with suppress(OSError):  # where it cannot be forgotten the peak is the process's
            _CLEAR.write_text(_FORGET_PEAK)
        if cuda := _cuda():
            cuda.reset_peak_memory_stats()

    def enter(self, phase: str) -> None:
        """The run is in this phase now; it may come back to one it was in before."""
        if phase != self._phase:
            self._close()
            self._phase = phase

    def apart(self, memory_bytes: int, accelerator_bytes: int) -> None:
        """A process that the run has for itself had at most this much resident so far."""
        self._apart = (max(self._apart[0], memory_bytes), max(self._apart[1], accelerator_bytes))

    def so_far(self) -> Resources:
        """Of all phases, in the order in which they began."""
        self._close()
        phases = [Resources.Phase(phase=phase, seconds=seconds) for phase, seconds in self._seconds.items()]
        return Resources(
            phases=phases,
            seconds=sum(self._seconds.values()),
            peak_memory_bytes=max(peak_memory_bytes(), self._apart[0]),
            peak_accelerator_bytes=max(_peak_accelerator_bytes(), self._apart[1]),
        )

    def _close(self) -> None:
        now = time.perf_counter()
        phase = self._phase or "starting"
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._began
        self._began = now


def peak_memory_bytes() -> int:
    """The most memory this process had resident, since the run began where the system can tell."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_accelerator_bytes() -> int:
    cuda = _cuda()
    return int(cuda.max_memory_allocated()) if cuda else 0


def _cuda() -> Any:
    # Who has not loaded torch has used no accelerator.
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_initialized() else None
