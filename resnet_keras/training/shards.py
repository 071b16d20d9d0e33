"""The files of a cache on disk: rows of equal length with their names and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections import OrderedDict
from collections.abc import Generator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_keras.atomic import atomic_path
from resnet_keras.errors import RunError

# The start of a sha256 that names a row: two of 10^12 rows agree with a chance of 10^-15.
ROW_ID = np.dtype("S16")
ENDING = ".rows"
OPEN_FILES = 32

# Mark, bytes a row, number of rows, sha256 of these, of the folder's name and of the ids.
_HEADER = struct.Struct("<8sQQ32s")
_MARK = b"RKROWS1\n"
_CHECK = np.dtype("<u4")

# Takes rows, uint8 `(k, row_bytes)`, by `send`; the first `next` leads to where it waits for them.
Filling = Generator[None, np.ndarray, None]


class Shard(NamedTuple):
    """A file of rows: a header, the ids of the rows, the rows, and the CRC-32 of each.

    Args:
        path: Where it is.
        ids: What names each row, `ROW_ID`.
        checks: The CRC-32 of each row.
    """

    path: Path
    ids: np.ndarray
    checks: np.ndarray

    def offset(self, place: int, row_bytes: int) -> int:
        """Returns where a row starts in the file, in bytes."""
        return _HEADER.size + self.ids.nbytes + place * row_bytes


def write_shard(folder: Path, ids: np.ndarray, row_bytes: int) -> Filling:
    """Returns what takes the rows of a shard in the order of `ids`, and no more than these.

    Raises:
        RunError: If the file cannot be written; there is no part of it then.
    """
    path = folder / (hashlib.sha256(ids.tobytes()).hexdigest()[:24] + ENDING)
    checks: list[int] = []
    with atomic_path(path, RunError) as temporary, temporary.open("wb") as file:
        file.write(_header(folder.name, ids, row_bytes) + ids.tobytes())
        while len(checks) < len(ids):
            rows = np.ascontiguousarray((yield))
            file.write(rows.data)
            checks += [zlib.crc32(row.data) for row in rows]
        file.write(np.array(checks, _CHECK).tobytes())


def read_shard(path: Path, row_bytes: int) -> Shard | None:
    """Returns what a shard holds; None if it is torn, damaged, or of another cache."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return None
            count = _HEADER.unpack(header)[2]
            ends = ROW_ID.itemsize + _CHECK.itemsize
            if path.stat().st_size != _HEADER.size + count * (row_bytes + ends):
                return None
            ids = np.frombuffer(file.read(count * ROW_ID.itemsize), ROW_ID)
            file.seek(count * row_bytes, 1)
            checks = np.frombuffer(file.read(count * _CHECK.itemsize), _CHECK)
    except OSError:
        return None
    known = header == _header(path.parent.name, ids, row_bytes)
    return Shard(path, ids, checks) if known else None


def _header(folder: str, ids: np.ndarray, row_bytes: int) -> bytes:
    facts = f"{folder} {row_bytes} {len(ids)} ".encode() + ids.tobytes()
    return _HEADER.pack(_MARK, row_bytes, len(ids), hashlib.sha256(facts).digest())


def set_aside(path: Path) -> None:
    """Gives a file that cannot be trusted a name under which nothing looks for it."""
    # Another process may have done it, and a folder that is only read stays as it is.
    with contextlib.suppress(OSError):
        path.replace(path.with_suffix(".damaged"))


class Reader:
    """Reads rows of shards at their offsets; a bounded number of files stays open."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, FileIO] = OrderedDict()

    def read(self, shard: Shard, place: int, into: np.ndarray) -> None:
        """Reads one row into memory, uint8 `(row_bytes,)`.

        Raises:
            RunError: If it can no longer be read, or is not what was written.
        """
        try:
            file = self._open(shard.path)
            file.seek(shard.offset(place, len(into)))
            whole = _fill(file, into.data)
        except OSError as error:
            raise RunError(
                f"{shard.path} can no longer be read ({error.strerror or error}): start again, "
                "and what it held is computed anew."
            ) from error
        if not whole or zlib.crc32(into.data) != shard.checks[place]:
            set_aside(shard.path)
            raise RunError(
                f"{shard.path} is damaged and was set aside: start again, and what it held is "
                "computed anew."
            )

    def _open(self, path: Path) -> FileIO:
        if path not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[path] = FileIO(path)
        self._files.move_to_end(path)
        return self._files[path]

    def close(self) -> None:
        """Closes all files."""
        while self._files:
            self._files.popitem()[1].close()


def _fill(file: FileIO, memory: memoryview) -> bool:
    """Fills the memory from where the file stands; returns whether there was enough."""
    while memory:
        count = file.readinto(memory)
        if not count:
            return False
        memory = memory[count:]
    return True
