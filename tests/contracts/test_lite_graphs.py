"""EfficientNet-Lites without torch: the same tensors, names and features as torch has, from the real files."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save

from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find as find_pictures
from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.worker import efficientnet_lite, graphs
from services.trainer.worker.architectures import build
from services.trainer.worker.pretrained import offered
from services.trainer.worker.pretrained.torch_files import Arrays, NotTensors, read
from services.trainer.worker.weights import to_safetensors

# Torch's own export takes most of a minute.
pytestmark = pytest.mark.timeout(600)
LITES = [row for row in ARCHITECTURES.values() if row.network.name in efficientnet_lite.BLOCKS]
MAX_DIFFERENCE = 1e-5


def file_of(row: ArchitectureRow) -> bytes:
    path = offered(row).locate()
    assert path is not None
    return path.read_bytes()


def arrays_of(row: ArchitectureRow) -> Arrays:
    return read(file_of(row))


def equal(ours: Arrays, theirs: dict[str, torch.Tensor]) -> bool:
    """To the bit, with names, order, shapes and types."""
    theirs = {name: tensor.detach() for name, tensor in theirs.items()}
    return list(ours) == list(theirs) and all(
        ours[name].dtype == tensor.numpy().dtype
        and ours[name].shape == tuple(tensor.shape)
        and ours[name].tobytes() == tensor.contiguous().numpy().tobytes()
        for name, tensor in theirs.items()
    )


@pytest.mark.parametrize("row", LITES, ids=lambda row: row.id)
def test_real_files_are_read_as_torch_reads_them(row: ArchitectureRow) -> None:
    """The official files, in torch's old format, and what torch makes of them today, a zip: equal to the bit."""
    data = file_of(row)
    theirs = torch.load(io.BytesIO(data), weights_only=True)
    assert equal(read(data), theirs)
    for as_zip in (True, False):
        again = io.BytesIO()
        torch.save(theirs, again, _use_new_zipfile_serialization=as_zip)
        assert equal(read(again.getvalue()), theirs)


def test_views_and_kinds_of_numbers_are_read() -> None:
    """Tensors that share a storage, that are transposed, that hold one number or none, and other types of numbers."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    given = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, 2:4],
        "one": torch.tensor(7),
        "double": torch.ones(3, dtype=torch.float64),
        "parameter": torch.nn.Parameter(base[0]),
        "half": torch.ones(3, dtype=torch.float16),
        "int": torch.ones(3, dtype=torch.int32),
    }
    for as_zip in (True, False):
        data = io.BytesIO()
        torch.save(given, data, _use_new_zipfile_serialization=as_zip)
        assert equal(read(data.getvalue()), given)


class Calls:
    """Calls what it is told when it is unpickled."""

    def __init__(self, what: Callable[..., Any], *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


def zipped(program: bytes, *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(16))
    return file.getvalue()


def old_format(program: bytes) -> bytes:
    return b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + program


def tensor(offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), size: int = 4) -> bytes:
    """The program of a state dict with one tensor of a storage that has 16 bytes in the file."""

    def integers(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + number.to_bytes(4, "little", signed=True) for number in numbers) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + integers((size,))[1:-1] + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integers((offset,))[1:-1]
    rebuilt += integers(shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\0\0\0a" + rebuilt + b"s."


def test_the_hand_made_program_is_a_tensor() -> None:
    """What the hostile programs below are variations of is read, by us and by torch."""
    assert equal(read(zipped(tensor())), {"a": torch.zeros(4)})


@pytest.mark.parametrize("wrapped", [zipped, old_format], ids=["zip", "old format"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_programs_are_not_run(tmp_path: Path, protocol: int, wrapped: Callable[[bytes], bytes]) -> None:
    """Whatever a file's description wants to call, import or change, it is refused, and nothing of it has happened."""
    canary = tmp_path / "canary"
    touch = f"touch {canary}"
    for hostile in (
        Calls(os.system, touch),
        {"weight": Calls(os.system, touch)},
        OrderedDict(weight=Calls(subprocess.getoutput, touch)),
        Calls(eval, f"open({str(canary)!r}, 'w')"),
        Calls(getattr, str, "format"),
    ):
        program = pickle.dumps(hostile, protocol)
        with pytest.raises(NotTensors):
            read(wrapped(program))
    assert not canary.exists()
    pickle.loads(pickle.dumps(Calls(os.system, touch), protocol))  # noqa: S301 - so the program does work
    assert canary.exists()


@pytest.mark.parametrize(
    "program",
    [
        tensor(size=1 << 20),
        tensor(offset=1),
        tensor(offset=-1),
        tensor(shape=(5,)),
        tensor(shape=(-1,)),
        tensor(shape=(2, 2), strides=(3, 1)),
        tensor(shape=(2, 2), strides=(-1, 1)),
        tensor(shape=(1 << 15, 1 << 15), strides=(0, 0)),
        tensor(shape=(4,), strides=(1, 1)),
        tensor()[:-1],
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        b"\x80\x02]a.",
        b"\x80\x02h\x05.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
        b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.",
        b"",
    ],
)
def test_descriptions_that_lie_are_refused(program: bytes) -> None:
    """A tensor outside its storage, a storage that is not there, and programs that are broken."""
    with pytest.raises(NotTensors):
        read(zipped(program))


def test_compressed_parts_are_refused() -> None:
    """What would be larger than the file is not unpacked."""
    with pytest.raises(NotTensors):
        read(zipped(tensor(), compressed=True))


@pytest.mark.parametrize("row", LITES, ids=lambda row: row.id)
def test_the_body_has_timms_names(row: ArchitectureRow) -> None:
    """The safetensors file without torch is, byte for byte, the one of timm's body."""
    arrays = arrays_of(row)
    ours = efficientnet_lite.state(row.network.name, arrays)
    body = build(row.network, arrays)
    assert equal(ours, body.state_dict())
    assert to_safetensors(ours) == save({name: one.contiguous() for name, one in body.state_dict().items()})


def test_other_files_are_no_body() -> None:
    """The file of another network of the family is not taken for this one's."""
    for of, name in ((LITES[0], LITES[1]), (LITES[1], LITES[0])):
        with pytest.raises(ValueError, match="tensors"):
            efficientnet_lite.state(name.network.name, arrays_of(of))


@pytest.mark.parametrize("row", LITES, ids=lambda row: row.id)
def test_features_are_those_of_torchs_export(row: ArchitectureRow, photographs: Path) -> None:
    """On photographs, features differ from those of the graph that torch exports by rounding alone."""
    arrays = arrays_of(row)
    drawn = efficientnet_lite.graph(efficientnet_lite.state(row.network.name, arrays), row)
    onnx.checker.check_model(onnx.load_model_from_string(drawn), full_check=True)
    ours, theirs = Backbone(drawn), Backbone(graphs.export(build(row.network, arrays), row))
    files = find_pictures(photographs / "val")[::40][:8]
    pixels = np.stack([to_pixels(file.path.read_bytes(), row.preprocessing) for file in files])
    expected = theirs.features(pixels)
    assert np.abs(ours.features(pixels) - expected).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("row", LITES, ids=lambda row: row.id)
@pytest.mark.parametrize("size", [64, 96, 160, 288, 352])
def test_features_are_torchs_at_other_sizes(row: ArchitectureRow, size: int, photographs: Path) -> None:
    """Where padding is another; to the rounding of the largest, since means of fewer cells are larger."""
    arrays, sized = arrays_of(row), input_sizes.at(row, size)
    drawn = efficientnet_lite.graph(efficientnet_lite.state(row.network.name, arrays), sized)
    onnx.checker.check_model(onnx.load_model_from_string(drawn), full_check=True)
    files = find_pictures(photographs / "val")[::40][:4]
    pixels = np.stack([to_pixels(file.path.read_bytes(), sized.preprocessing) for file in files])
    with torch.inference_mode():
        expected = graphs.PixelsIn(build(row.network, arrays), sized).eval()(torch.from_numpy(pixels))[0].numpy()
    assert np.abs(Backbone(drawn).features(pixels) - expected).max() <= MAX_DIFFERENCE * np.abs(expected).max()
