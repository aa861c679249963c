"""Objects as files below a folder. For one machine; it knows no network."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from services.shared.objects.errors import ObjectCorrupt, ObjectMissing, StoreFull, StoreUnavailable
from services.shared.objects.keys import KEY

_TEMPORARY = ".writing-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# No file there: nothing at all, a folder, or a file where a folder would have to be.
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class FilesystemStore:
    """An ObjectStore in a folder, which is created: at once, or with the first object."""

    def __init__(self, folder: str | Path, *, at_once: bool = True) -> None:
        self.folder = Path(folder).expanduser()
        if not at_once:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StoreUnavailable(f"{self.folder} cannot be created: {problem.strerror}") from problem

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as problem:
            kind = StoreFull if problem.errno in _FULL else StoreUnavailable
            raise kind(f"{key} cannot be written in {self.folder}: {problem.strerror}") from problem

    def get(self, key: str, sha256: str | None = None) -> bytes:
        data = self._read(self._path(key), key)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ObjectCorrupt(key)
        return data

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        path = self._path(key)
        try:
            facts = path.stat()
        except _ABSENT:
            raise ObjectMissing(key) from None
        except OSError as problem:
            raise StoreUnavailable(f"{key} cannot be read: {problem.strerror}") from problem
        # A replaced object is another file: its inode or its time differs.
        current = f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"
        return None if current == tag else (self._read(path, key), current)

    def keys(self, prefix: str) -> Iterator[str]:
        below = self.folder / prefix.rpartition("/")[0]
        files = (path for path in below.rglob("*") if path.is_file() and not path.name.startswith(_TEMPORARY))
        keys = {path: path.relative_to(self.folder).as_posix() for path in files}
        dated = [(_time(path), key) for path, key in keys.items() if key.startswith(prefix)]
        yield from (key for time, key in sorted(dated) if time)

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except _ABSENT:
            pass
        except OSError as problem:
            raise StoreUnavailable(f"{key} cannot be removed: {problem.strerror}") from problem

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key: {key!r}")
        return self.folder / key

    def _read(self, path: Path, key: str) -> bytes:
        try:
            return path.read_bytes()
        except _ABSENT:
            raise ObjectMissing(key) from None
        except OSError as problem:
            raise StoreUnavailable(f"{key} cannot be read: {problem.strerror}") from problem


def look(folder: str | Path) -> str:
    """What there is of a store in a folder, in a few words; nothing is made or changed. StoreUnavailable where it is of
    no use.
    """
    wanted, there = Path(folder).expanduser(), _nearest(folder)
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        found = "it is no folder" if not there.is_dir() else "it cannot be written"
        what = f"{wanted} cannot be used" if there == wanted else f"{wanted} cannot be created in {there}"
        raise StoreUnavailable(f"{what}: {found}")
    return f"{wanted} can be read and written" if there == wanted else f"{wanted} is made at the first start"


def free_bytes(folder: str | Path) -> int:
    """What room there is where a store in the folder lies, or will lie."""
    return shutil.disk_usage(_nearest(folder)).free


def _nearest(folder: str | Path) -> Path:
    """The folder, or the nearest above it that is there."""
    wanted = Path(folder).expanduser()
    return next(one for one in (wanted, *wanted.absolute().parents) if one.exists())


def _time(path: Path) -> int:
    # 0 where the object went while it was listed.
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Nobody sees less than all of it: it is written beside, and renamed. A durable one outlives a power cut: it is
    flushed before, and its folder after. OSError.
    """
    handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
