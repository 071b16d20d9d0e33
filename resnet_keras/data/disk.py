"""Decoded pictures in a temporary file, for those that do not fit in memory."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

# The rest of what is free is for checkpoints, the cache at the boundary, and everybody else.
DISK_SHARE = 0.5
# Folders for temporary files, the second for machines whose first lies in memory.
FOLDERS = (tempfile.gettempdir, lambda: "/var/tmp")
# File systems whose files take memory.
MEMORY_FILES = ("tmpfs", "ramfs")


class PictureFile:
    """Pictures of one shape, written and read by their place, from several threads at a time.

    The file has no name: it is gone with the process, however that ends. It is read piece by
    piece, as the pages of a memory map would count as memory of the process. A full or broken
    disk loses nothing: what could not be written is not there to be read.

    Args:
        count: Number of pictures that may come; only as many as fit are taken.
        shape: Shape of one picture, uint8.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._bytes = math.prod(shape)
        folder = _folder() if count and hasattr(os, "preadv") else None
        room = int(DISK_SHARE * shutil.disk_usage(folder).free) // self._bytes if folder else 0
        self._written = np.zeros(min(count, room), bool)
        self._file = None
        if self._written.size:
            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as temporary:
                self._file = os.dup(temporary.fileno())
                weakref.finalize(self, os.close, self._file)

    def write(self, place: int, picture: np.ndarray) -> None:
        """Keeps a picture if there is room for it, instead of the one that was there."""
        if self._file is None or place >= len(self._written):
            return
        self._written[place] = False
        data = np.ascontiguousarray(picture).data.cast("B")
        with contextlib.suppress(OSError):
            done = os.pwrite(self._file, data, place * self._bytes)
            self._written[place] = done == self._bytes

    def read(self, place: int, picture: np.ndarray) -> bool:
        """Fills a contiguous array with the picture of a place; False if it is not there."""
        if self._file is None or place >= len(self._written) or not self._written[place]:
            return False
        with contextlib.suppress(OSError):
            buffers = [picture.data.cast("B")]
            return os.preadv(self._file, buffers, place * self._bytes) == self._bytes
        return False


def _folder() -> str | None:
    """Returns the first folder for temporary files that can be written and is not in memory."""
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            if os.access(folder(), os.W_OK) and not _lies_in_memory(folder()):
                return folder()
    return None


def _lies_in_memory(folder: str) -> bool:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        # Each line: mount, parent, device, ..., "-", type of the file system (proc(5)).
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[2] == number:
                return line.split(" - ")[1].split()[0] in MEMORY_FILES
    return False
