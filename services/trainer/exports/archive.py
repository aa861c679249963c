"""The zip of an export: nothing compressed, sorted by name, without times, so that equal files are equal bytes. What is
imported must look the same. It does not know what is in it.
"""

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

# No larger zip is made, sent or taken.
MAX_BYTES = 1024**3
# The time that every entry has: zip's earliest.
EPOCH = (1980, 1, 1, 0, 0, 0)
MODE = stat.S_IFREG | 0o644
UNIX = 3


def write(to: Path | IO[bytes], files: Mapping[str, bytes]) -> None:
    """Writes the zip. Weights hardly shrink, and what is not compressed is the same with every version of zlib."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            archive.writestr(entry, files[name])
