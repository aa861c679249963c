"""Which parts a worker's environment has: torch may be missing, and `fast` and `quality` on EfficientNet-Lites go
without; so may Ultralytics, the extra `yolo`, which only YOLO needs.
"""

from importlib.util import find_spec

from services.trainer.architectures import ULTRALYTICS, ArchitectureRow


class NoTorch(Exception):
    """Something needs torch and it is not installed; the message says what to do."""


class NoYolo(Exception):
    """Something needs Ultralytics and it is not installed; the message says what to do."""


def has_torch() -> bool:
    return find_spec("torch") is not None


def need_torch(what: str) -> None:
    """NoTorch where it is not installed."""
    if not has_torch():
        raise NoTorch(
            f"{what} needs torch, which the worker that took the run has not. Start a worker with torch, or train with "
            "preset fast or quality and the pretrained weights of an EfficientNet-Lite."
        )


def has_yolo() -> bool:
    return has_torch() and find_spec(ULTRALYTICS) is not None


def need_yolo(row: ArchitectureRow) -> None:
    """NoYolo where it is not installed."""
    if not has_yolo():
        raise NoYolo(
            f"{row.id} needs Ultralytics, which the worker that took the run has not. Install the extra `yolo`, which "
            f"is {row.code_license} software, beside a worker, or take another architecture."
        )


def can_build(row: ArchitectureRow) -> bool:
    """Whether the graph of the architecture's pretrained weights can be built here."""
    if row.network.library == ULTRALYTICS:
        return has_yolo()
    if has_torch():
        return True
    from services.trainer.worker.efficientnet_lite import BLOCKS

    return row.network.name in BLOCKS
