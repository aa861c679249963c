"""A process whose parent is gone. A parent that shall not leave it behind, not even when it is killed, holds the other
end of its standard input and writes nothing there: the end of that pipe is the news.
"""

import os
import threading
from collections.abc import Callable

_STANDARD_INPUT = 0


def when_gone(then: Callable[[], None]) -> None:
    """Calls `then` from a thread of its own once standard input ends."""
    threading.Thread(target=_wait, args=(then,), name="parent", daemon=True).start()


def _wait(then: Callable[[], None]) -> None:
    # The bare descriptor: a thread that waits inside sys.stdin would keep the interpreter from ending.
    while os.read(_STANDARD_INPUT, 1):
        pass
    then()
