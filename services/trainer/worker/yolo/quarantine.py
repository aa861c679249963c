"""Ultralytics in a process of its own, with an environment and a folder of its own. Whatever would send, download or
install something is off: here what it reads from its environment, in `child.py` what stands in its settings.

What the process shall do stands in `task.json` of the folder, beside the files it needs; it answers with a line of JSON
for everything that happens, and with files.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from services.shared.settings import passed_on
from services.trainer.worker.children import ChildLost, Children
from services.trainer.worker.parts import NoYolo

log = structlog.get_logger()

LOG = "log.txt"
_UNUSABLE = (
    "Ultralytics is installed beside the worker and does not load; the worker's log says why. On Linux OpenCV, which "
    "it needs, wants libGL and GLib (Debian: libgl1, libglib2.0-0)."
)
_SHOWN_BYTES = 4000
# Which accelerator to use, where its libraries are, and whose processes these are; nothing else comes over.
_PASSED_ON = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "HANDFUL_HOME")


def answers(
    children: Children, folder: Path, task: Mapping[str, Any], threads: int, step: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """What the process says, until it ends; `step` is called twice a second at least, and may raise to stop.
    MemoryError where its memory, or the accelerator's, did not suffice; NoYolo where Ultralytics does not load;
    ChildLost where it failed.
    """
    (folder / "task.json").write_text(json.dumps(task))
    (folder / "tmp").mkdir()
    # -P and -s: nothing is imported from the folder it runs in, nor from a home.
    command = [sys.executable, "-P", "-s", "-m", "services.trainer.worker.yolo.child"]
    with (folder / LOG).open("wb") as said:
        try:
            for line in children.lines(command, environment(folder, threads), folder, said, step):
                answer = json.loads(line)
                if answer.get("out_of_memory"):
                    raise MemoryError("Ultralytics ran out of memory")
                if answer.get("unusable"):
                    log.warning("Ultralytics does not load", log=_end(folder / LOG))
                    raise NoYolo(_UNUSABLE)
                yield answer
        except ChildLost as lost:
            log.warning("Ultralytics failed", problem=str(lost), log=_end(folder / LOG))
            raise


def environment(folder: Path, threads: int) -> dict[str, str]:
    """All that the process has of an environment: no proxy, no key, no token, no home of anybody."""
    return {
        **passed_on(_PASSED_ON),
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "USER": "handful",
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": str(threads),
        "YOLO_CONFIG_DIR": str(folder / "config"),
        # No name is looked up at import, no version asked for, no event and no error sent, nothing downloaded.
        "YOLO_OFFLINE": "true",
        # No package is installed.
        "YOLO_AUTOINSTALL": "false",
        # A checkpoint executes nothing and names no modules to install.
        "ULTRALYTICS_SAFE_LOAD": "true",
    }


def _end(file: Path) -> str:
    return file.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace")
