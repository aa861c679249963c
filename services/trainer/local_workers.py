"""Workers beside the service, on one machine: started, restarted when they die, stopped with the service.

A worker of ours holds a pipe to us: when we are killed it sees the pipe's end, finishes its run and goes. A trainer
that starts anew therefore counts such workers before it adds more: those that hold a run and live. Their ids begin with
the name of the machine, our port and the number of their process. It knows nothing of what workers do.
"""

import asyncio
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping

import structlog

from handful.errors import Unavailable
from services.shared.database import Database
from services.trainer import attempts

log = structlog.get_logger()

CHECK_SECONDS = 0.5
STOP_SECONDS = 10.0
# Well below a lease: a worker that died is replaced before its run waits for another.
MAX_PAUSE_SECONDS = 5.0
# A worker that has lived this long has started well.
SETTLED_SECONDS = 30.0


class LocalWorkers:
    """Keeps `wanted` workers alive that report to `address`. Stop them while what they hand back is still taken."""

    def __init__(self, database: Database, wanted: int, address: str, environment: Mapping[str, str]) -> None:
        self._database = database
        self._wanted = wanted
        self._environment = {
            **environment,
            "HANDFUL_WORKER_TRAINER": address,
            "HANDFUL_WORKER_NAME": f"{platform.node()}-{address.rpartition(':')[2]}",
            "HANDFUL_PARENT_PIPE": "true",
        }
        self._processes: dict[subprocess.Popen[bytes], float] = {}
        self._pause = CHECK_SECONDS

    async def run(self) -> None:
        """For ever."""
        orphans = await self._num_orphans(self._wanted)
        while True:
            orphans = min(orphans, await self._num_orphans(orphans)) if orphans else 0
            self._replace_dead()
            while len(self._processes) < self._wanted - orphans:
                self._processes[self._start()] = time.monotonic()
            await asyncio.sleep(self._pause)

    async def stop(self) -> None:
        """After `run`: ends the workers, each of which hands its run back."""
        await asyncio.to_thread(self._stop)

    async def _num_orphans(self, otherwise: int) -> int:
        ours = f"{self._environment['HANDFUL_WORKER_NAME']}-"
        try:
            async with self._database.read() as connection:
                workers = await attempts.holders(connection, ours)
        except Unavailable as problem:
            log.warning("workers not counted, will be", problem=problem.message)
            return otherwise
        return sum(_lives(worker.removeprefix(ours).partition("-")[0]) for worker in workers)

    def _replace_dead(self) -> None:
        dead = [process for process in self._processes if process.poll() is not None]
        for process in dead:
            log.warning("worker ended", pid=process.pid, exit_code=process.returncode)
            process.communicate()  # closes the pipe
        # A worker that cannot start shall not be started again and again without a pause.
        quick = any(time.monotonic() - self._processes.pop(process) < SETTLED_SECONDS for process in dead)
        settled = all(time.monotonic() - started > SETTLED_SECONDS for started in self._processes.values())
        if quick:
            self._pause = min(self._pause * 2, MAX_PAUSE_SECONDS)
        elif settled:
            self._pause = CHECK_SECONDS

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer.worker"],
            stdin=subprocess.PIPE,
            env=self._environment,
            # Ctrl-C goes to the whole group of the terminal; a worker is told by us instead.
            start_new_session=True,
        )
        log.info("worker started", pid=process.pid)
        return process

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with process:
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
