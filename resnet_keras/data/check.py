"""Decodes every picture once: finds the bad ones, notes the odd ones, keeps the others."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_keras.data.decode import Decoded, decode
from resnet_keras.data.disk import PictureFile
from resnet_keras.data.listing import Listing
from resnet_keras.data.memory import available_memory
from resnet_keras.data.threads import decoding_pool
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe

# The rest is for the network, its activations and the cache at the boundary.
MEMORY_SHARE = 0.25
CHUNK = 512
PATIENCE_S = 2.0
PLAIN_INTERVAL_S = 15.0


class Checked(NamedTuple):
    """What decoding a picture showed: its content's sha256, or the reason why it is bad."""

    digest: bytes = b""
    changes: tuple[str, ...] = ()
    reason: str = ""


class Store:
    """Decoded pictures by row: in memory as far as they fit, then on disk, then decoded again.

    Args:
        listing: The pictures.
        recipe: Size, crop and interpolation.
        max_pixels: Pictures with more pixels are refused.
    """

    def __init__(self, listing: Listing, *, recipe: Recipe, max_pixels: int) -> None:
        count, shape = len(listing.names), (recipe.image_size, recipe.image_size, 3)
        room = int(MEMORY_SHARE * available_memory()) // math.prod(shape)
        self._listing, self._recipe, self._max_pixels = listing, recipe, max_pixels
        self._kept = np.empty((min(count, room), *shape), np.uint8)
        self._on_disk = PictureFile(count - len(self._kept), shape)

    def check(self) -> list[Checked]:
        """Decodes every picture, several at a time, and keeps them as far as there is room."""
        count = len(self._listing.names)
        checked: list[Checked] = []
        with _Meter(count) as meter:
            for start in range(0, count, CHUNK):
                rows = range(start, min(start + CHUNK, count))
                for result in decoding_pool().map(self._check, rows):
                    checked.append(result)
                    meter.advance()
        return checked

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Returns the pictures of some rows, uint8 `(k, size, size, 3)`.

        Raises:
            DataError: If a picture can no longer be read.
        """
        if np.all(rows < len(self._kept)):
            kept: np.ndarray = self._kept[rows]
            return kept
        found = np.empty((len(rows), *self._kept.shape[1:]), np.uint8)
        for _ in decoding_pool().map(self._fill, found, rows.tolist()):
            pass
        return found

    def _check(self, row: int) -> Checked:
        try:
            pixels, changes = self._decode(row)
        except DataError as error:
            return Checked(reason=str(error))
        if row < len(self._kept):
            self._kept[row] = pixels
        else:
            self._on_disk.write(row - len(self._kept), pixels)
        return Checked(hashlib.sha256(pixels.data).digest(), changes)

    def _fill(self, target: np.ndarray, row: int) -> None:
        """Writes the picture of a row into an array."""
        if row < len(self._kept):
            target[:] = self._kept[row]
        elif not self._on_disk.read(row - len(self._kept), target):
            try:
                target[:] = self._decode(row).pixels
            except DataError as error:
                raise DataError(f"{self._listing.names[row]} {error}.") from error

    def _decode(self, row: int) -> Decoded:
        return decode(self._listing.fetch(row), self._recipe, max_pixels=self._max_pixels)


class _Meter:
    """Shows how far a check is, once it takes long: a bar on a terminal, else a line at times."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._due = time.monotonic() + PATIENCE_S
        self._progress = Progress(
            TextColumn("checking pictures"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def advance(self) -> None:
        """Counts one more picture."""
        self._done += 1
        self._progress.advance(self._task)
        if time.monotonic() < self._due:
            return
        if self._progress.console.is_terminal:
            self._due = float("inf")
            self._progress.start()
        else:
            self._due = time.monotonic() + PLAIN_INTERVAL_S
            print(f"checked {self._done:,} of {self._total:,} pictures", file=sys.stderr)
