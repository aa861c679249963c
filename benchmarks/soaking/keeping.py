"""The inference service with a planted fault, for `soak.py` to catch: it keeps a kilobyte of every request."""

import os
import runpy
from typing import Any

from services.inference.batching import Batcher

KEPT_BYTES = 1024


def main() -> None:
    kept, answer = [], Batcher.answer_all

    async def keeping(self: Batcher, *given: Any) -> Any:
        kept.append(os.urandom(KEPT_BYTES))
        return await answer(self, *given)

    setattr(Batcher, "answer_all", keeping)  # noqa: B010 - a fault
    runpy.run_module("services.inference", run_name="__main__")


if __name__ == "__main__":
    main()
