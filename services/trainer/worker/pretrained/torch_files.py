"""Tensors out of the files that `torch.save` writes, in its old format and as a zip, without torch and without pickle.

The description of the tensors in such a file is a pickle, a program. It is read here by an interpreter of our own that
knows what a description is made of, and nothing that calls, imports or builds anything: whatever else stands in a file
is refused. Formats: torch/serialization.py; opcodes: Python's pickletools.py.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

_ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"


class NotTensors(Exception):
    """A file holds something else than tensors by name."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes) -> npt.NDArray[Any]:
        """The tensor, copied out of its storage's bytes. NotTensors where it reaches beyond them."""
        if len(data) != self.storage.size * self.storage.dtype.itemsize:
            raise NotTensors("a storage is not as long as it is said to be")
        reach = self.offset + sum((many - 1) * step for many, step in zip(self.shape, self.strides, strict=True))
        smallest = min((self.offset, *self.strides, *(many - 1 for many in self.shape)))
        if smallest < 0 or reach >= self.storage.size or prod(self.shape) > self.storage.size:
            raise NotTensors("a tensor reaches beyond its storage")
        flat = np.frombuffer(data, self.storage.dtype)[self.offset :]
        strides = [step * self.storage.dtype.itemsize for step in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False), order="C")


def read(data: bytes) -> Arrays:
    """The tensors of a state dict, by name and in its order. NotTensors."""
    try:
        return _of_zip(data) if data.startswith(_ZIP) else _of_old_format(data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, zipfile.BadZipFile, OverflowError) as problem:
        raise NotTensors("it is not what torch.save writes") from problem


def _of_old_format(data: bytes) -> Arrays:
    file = io.BytesIO(data)
    if (_interpret(file), _interpret(file)) != (_MAGIC, _PROTOCOL) or _interpret(file)["little_endian"] is not True:
        raise NotTensors("it is not what torch.save writes")
    tensors, keys = _tensors(_interpret(file)), _interpret(file)
    sizes = {one.storage.key: one.storage.size * one.storage.dtype.itemsize for one in tensors.values()}
    storages = {}
    for key in keys:
        file.seek(8, io.SEEK_CUR)  # the number of elements, which the description says too
        storages[key] = file.read(sizes[key])
    return {name: one.array(storages[one.storage.key]) for name, one in tensors.items()}


def _of_zip(data: bytes) -> Arrays:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (described,) = (one for one in archive.namelist() if one.endswith("/data.pkl"))
        folder = described.removesuffix("data.pkl")
        # What is not compressed is no larger than the file.
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise NotTensors("its parts are compressed")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise NotTensors("its numbers are not little-endian")
        tensors = _tensors(_interpret(io.BytesIO(archive.read(described))))
        return {name: one.array(archive.read(f"{folder}data/{one.storage.key}")) for name, one in tensors.items()}


def _tensors(described: Any) -> dict[str, _Tensor]:
    if not isinstance(described, dict):
        raise NotTensors("it holds something else than tensors by name")
    for name, one in described.items():
        if not (isinstance(name, str) and isinstance(one, _Tensor)):
            raise NotTensors("it holds something else than tensors by name")
    return described


def _interpret(file: io.BytesIO) -> Any:
    """The value of the pickle that begins here, made of plain values and descriptions; the file is after it then."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if opcode.name in _PUSHES:
            machine.stack.append(_PUSHES[opcode.name](argument))
        elif opcode.name in _STEPS:
            _STEPS[opcode.name](machine, argument)
        elif opcode.name not in {"PROTO", "FRAME"}:
            raise NotTensors(f"its description has a {opcode.name}")
    raise NotTensors("its description has no end")


class _Machine:
    """The stack and the memo of a pickle; every step takes an opcode's argument."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def tuple_of_marked(self, _: None) -> None:
        self.stack.append(tuple(self._marked()))

    def tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append_marked(self, _: None) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def set_marked(self, _: None) -> None:
        items = self._marked()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def set_one(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[key] = value

    def drop_state(self, _: None) -> None:
        # What a state dict says of itself, the versions of its modules: its tensors have no use for it.
        self.stack.pop()
        self._top(dict)

    def storage(self, _: None) -> None:
        kind, of, key, _where, size, *_view = self.stack.pop()
        if kind != "storage" or not isinstance(key, str) or not isinstance(size, int):
            raise NotTensors("it refers to something else than a storage")
        self.stack.append(_Storage(key, _DTYPES[of.name], size))

    def reduce(self, _: None) -> None:
        arguments, of = self.stack.pop(), self.stack.pop()
        if of == _Global(_DICT) and arguments == ():
            self.stack.append({})
        elif of == _Global(_TENSOR) and isinstance(arguments[0], _Storage):
            self.stack.append(_Tensor(*arguments[:4]))
        elif of == _Global(_PARAMETER) and isinstance(arguments[0], _Tensor):
            self.stack.append(arguments[0])
        else:
            raise NotTensors("its description asks for a call")

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise NotTensors("its description is none of tensors")
        return self.stack[-1]


_MARK = object()


def _named(name: str) -> _Global:
    if name not in {_DICT, _TENSOR, _PARAMETER, *_DTYPES}:
        raise NotTensors(f"its description names {name}")
    return _Global(name)


_PUSHES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"), lambda argument: argument),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
    "GLOBAL": _named,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_of_marked,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPENDS": _Machine.append_marked,
    "SETITEM": _Machine.set_one,
    "SETITEMS": _Machine.set_marked,
    "BUILD": _Machine.drop_state,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.reduce,
}
