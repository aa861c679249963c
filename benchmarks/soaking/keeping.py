"""The inference service with a planted fault, for `soak.py` to catch.

usage: python -m benchmarks.soaking.keeping BYTES: what it keeps of every request
"""

import os
import runpy
import sys
from typing import Any

from services.inference.batching import Batcher


def main() -> None:
    num_bytes, kept, answer = int(sys.argv[1]), [], Batcher.answer_all

    async def keeping(self: Batcher, *given: Any) -> Any:
        kept.append(os.urandom(num_bytes))
        return await answer(self, *given)

    setattr(Batcher, "answer_all", keeping)  # noqa: B010 - a fault
    runpy.run_module("services.inference", run_name="__main__")


if __name__ == "__main__":
    main()
