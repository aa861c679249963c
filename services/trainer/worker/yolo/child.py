"""`python -m services.trainer.worker.yolo.child`, in a folder with a `task.json`: what `quarantine.py` starts.

What it prints is a line of JSON each; whatever its libraries print goes where errors go. It ends, folder and all, with
the process that started it.
"""

import json
import os
import shutil
import signal
import traceback
from pathlib import Path
from typing import Any

from services.shared import parent
from services.trainer.worker.memory import is_out_of_memory


class Answers:
    """What the process that started this one reads."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, answer: dict[str, Any]) -> None:
        self._file.write(json.dumps(answer) + "\n")


def main() -> int:
    """Does the task; the exit code."""
    parent.when_gone(_end)
    answers = Answers()
    try:
        from services.trainer.worker.yolo import tasks  # Ultralytics prints from the first import on
    except ImportError:
        traceback.print_exc()
        answers.say({"unusable": True})
        return 0
    task = json.loads(Path("task.json").read_text())
    try:
        tasks.TASKS[task["do"]](task, answers.say)
    except Exception as problem:  # noqa: BLE001 - its text is for our log
        traceback.print_exc()
        if not is_out_of_memory(problem):
            return 1
        answers.say({"out_of_memory": True})
    return 0


def _end() -> None:
    shutil.rmtree(Path.cwd(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os._exit(main())  # its files are written, and libraries take seconds to go
