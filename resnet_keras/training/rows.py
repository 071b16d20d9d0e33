"""Rows of bytes by number: in memory, or on disk in shards that name their rows by content."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np

from resnet_keras.atomic import is_leftover
from resnet_keras.errors import RunError
from resnet_keras.training.shards import (
    ENDING,
    Filling,
    Reader,
    Shard,
    read_shard,
    set_aside,
    write_shard,
)

# Large enough for a disk to be fast, small enough to lose little when a process is killed ...
SHARD_BYTES = 128 << 20
# ... which for pooled features, of a few KB, this bounds: a minute of ResNet-50 on two cores.
SHARD_ROWS = 2048
# What a writer that is still alive has touched more recently than that.
STALE_S = 3600.0


class Store(Protocol):
    """Rows of equal length, of which some may be missing at first."""

    @property
    def missing(self) -> np.ndarray:
        """Which rows are not there yet, bool `(rows,)`."""

    def filling(self, order: np.ndarray) -> Filling:
        """Returns what takes missing rows in this order; closed early, it keeps what is whole."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows by number, uint8 `(k, row_bytes)`, as an array of its own."""


class MemoryRows:
    """A store in memory; all of its rows are missing at first.

    Args:
        count: Number of rows.
        row_bytes: Length of each.
    """

    def __init__(self, count: int, row_bytes: int) -> None:
        self._values = np.empty((count, row_bytes), np.uint8)
        self._missing = np.ones(count, np.bool_)

    @property
    def missing(self) -> np.ndarray:
        """Which rows are not there yet, bool `(rows,)`."""
        return self._missing

    def filling(self, order: np.ndarray) -> Filling:
        """Returns what takes missing rows in this order."""
        done = 0
        while done < len(order):
            values = yield
            chosen = order[done : done + len(values)]
            self._values[chosen], self._missing[chosen] = values, False
            done += len(values)
        yield

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows by number, uint8 `(k, row_bytes)`."""
        found: np.ndarray = self._values[rows]
        return found


class DiskRows:
    """A store in a folder of shards, which any number of processes may read and fill at once.

    A shard is written whole or not at all, and never changed. It counts only if the sha256 in
    its header is that of its ids and of the folder's name, and if its size is right; each row is
    checked against its CRC-32 when it is read. What fails is set aside. Rows are read into memory
    of their own, not mapped, so that a process does not grow with what it has read.

    Args:
        folder: The folder, which need not be there yet; its name is the key of the cache.
        ids: What names each row: `ROW_ID`, sorted, each once.
        row_bytes: Length of each row.
    """

    def __init__(self, folder: Path, ids: np.ndarray, row_bytes: int) -> None:
        self._folder, self._ids, self._row_bytes = folder, ids, row_bytes
        self._reader, self._lock = Reader(), threading.Lock()
        weakref.finalize(self, self._reader.close)
        self._remove_stale()
        self._find()

    def _remove_stale(self) -> None:
        """Removes what killed writers left, and leaves alone what others are writing now."""
        for path in self._folder.glob(".*"):
            with contextlib.suppress(OSError):
                if is_leftover(path) and time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _find(self) -> None:
        """Notes where each row lies, as far as it is in a shard that can be trusted."""
        self._shards: list[Shard] = []
        self._shard = np.full(len(self._ids), -1, np.int32)
        self._place = np.zeros(len(self._ids), np.int32)
        # Names that begin with a dot are those of shards that are being written.
        for path in sorted(self._folder.glob(f"[!.]*{ENDING}")):
            if (shard := read_shard(path, self._row_bytes)) is None:
                set_aside(path)
                continue
            rows = np.minimum(np.searchsorted(self._ids, shard.ids), len(self._ids) - 1)
            new = np.flatnonzero((self._ids[rows] == shard.ids) & (self._shard[rows] < 0))
            if len(new):
                self._shard[rows[new]], self._place[rows[new]] = len(self._shards), new
                self._shards.append(shard)

    @property
    def missing(self) -> np.ndarray:
        """Which rows are in no shard, bool `(rows,)`."""
        return self._shard < 0

    def filling(self, order: np.ndarray) -> Filling:
        """Returns what takes missing rows in this order, and writes them shard by shard.

        Raises:
            RunError: If a shard cannot be written; those before it stay. Or if one is gone.
        """
        count = max(1, min(SHARD_ROWS, SHARD_BYTES // self._row_bytes))
        values = np.empty((0, self._row_bytes), np.uint8)
        for start in range(0, len(order), count):
            ids = self._ids[order[start : start + count]]
            left = len(ids)
            with contextlib.closing(write_shard(self._folder, ids, self._row_bytes)) as writing:
                next(writing)
                while left:
                    values = values if len(values) else (yield)
                    now, values = values[:left], values[left:]
                    left -= len(now)
                    with contextlib.suppress(StopIteration):  # it ends with the last row
                        writing.send(now)
        self._find()
        if self.missing[order].any():
            raise RunError(
                f"{self._folder} must keep its files while they are used, but some that were "
                "written just now are gone: start again without removing any."
            )
        yield

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows by number, uint8 `(k, row_bytes)`.

        Raises:
            RunError: If a row can no longer be read, or is not what was written.
        """
        values = np.empty((len(rows), self._row_bytes), np.uint8)
        with self._lock:
            for index in np.lexsort((self._place[rows], self._shard[rows])).tolist():
                row = rows[index]
                shard = self._shards[self._shard[row]]
                self._reader.read(shard, int(self._place[row]), values[index])
        return values
