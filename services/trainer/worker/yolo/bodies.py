"""What Ultralytics builds and reads, without training: bodies as graphs, and the tensors of its weights files."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

from services.trainer.architectures import ArchitectureRow
from services.trainer.worker.children import ChildLost, Children
from services.trainer.worker.parts import NoYolo, has_yolo
from services.trainer.worker.pretrained.torch_files import Arrays, NotTensors
from services.trainer.worker.yolo import quarantine

_THREADS = 2


def export(children: Children, row: ArchitectureRow, tensors: Arrays | None, seed: int) -> tuple[bytes, Arrays]:
    """A body's graph and state dict; with random weights from the seed where no tensors are given. ChildLost."""
    what = {"architecture": row.id, "size": row.preprocessing.size, "seed": seed}
    task = {"do": "body", **what, "pretrained": tensors is not None}
    with children.folder() as folder:
        lay_weights(folder, tensors)
        for _ in quarantine.answers(children, folder, task, _THREADS, lambda: None):
            pass
        return exported(folder)


def version() -> str:
    """Of the Ultralytics that loads here. NoYolo where none does."""
    children = Children()
    try:
        with children.folder() as folder:
            (said,) = quarantine.answers(children, folder, {"do": "version"}, _THREADS, lambda: None)
            return str(said["version"])
    finally:
        children.end()


def lay_weights(folder: Path, tensors: Arrays | None) -> None:
    """Pretrained tensors, where there are some, as the process finds them."""
    if tensors is not None:
        save_file(tensors, folder / "pretrained.safetensors")


def exported(folder: Path) -> tuple[bytes, Arrays]:
    """The graph and the tensors of the body that the process left behind."""
    return (folder / "graph.onnx").read_bytes(), load_file(folder / "body.safetensors")


def read(data: bytes) -> Arrays:
    """The tensors of an official weights file, by name and in its order, as float32. NotTensors."""
    if not has_yolo():
        raise NotTensors("only Ultralytics reads it, the extra `yolo`, which is not installed here")
    children = Children()
    try:
        with children.folder() as folder:
            (folder / "official.pt").write_bytes(data)
            for _ in quarantine.answers(children, folder, {"do": "tensors"}, _THREADS, lambda: None):
                pass
            found, order = load_file(folder / "tensors.safetensors"), json.loads((folder / "order.json").read_text())
            return {name: found[name] for name in order}
    except ChildLost as problem:
        raise NotTensors("Ultralytics cannot read it") from problem
    except NoYolo as problem:
        raise NotTensors("only Ultralytics reads it, which is installed here and does not load") from problem
    except MemoryError as problem:
        raise NotTensors("memory does not suffice to read it") from problem
    finally:
        children.end()
