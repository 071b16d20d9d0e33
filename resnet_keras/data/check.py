"""Decodes every picture once: finds the bad ones, notes the odd ones, keeps what fits in memory."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_keras.data.decode import Decoded, decode
from resnet_keras.data.listing import Listing
from resnet_keras.data.memory import available_memory
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe

# Pillow gives up the interpreter lock while it decodes; more threads would only take memory.
THREADS = min(4, os.cpu_count() or 1)
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
    """Decoded pictures by row: from memory as far as they fit, from their source beyond.

    Args:
        listing: The pictures.
        recipe: Size, crop and interpolation.
        max_pixels: Pictures with more pixels are refused.
    """

    def __init__(self, listing: Listing, *, recipe: Recipe, max_pixels: int) -> None:
        side, count = recipe.image_size, len(listing.names)
        room = int(MEMORY_SHARE * available_memory()) // (3 * side * side)
        self._listing, self._recipe, self._max_pixels = listing, recipe, max_pixels
        self._kept = np.empty((min(count, room), side, side, 3), np.uint8)

    def check(self) -> list[Checked]:
        """Decodes every picture, several at a time, and keeps the first ones in memory."""
        count = len(self._listing.names)
        checked: list[Checked] = []
        with _Meter(count) as meter, ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, count, CHUNK):
                for result in pool.map(self._check, range(start, min(start + CHUNK, count))):
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
        with ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(self._picture, rows.tolist())))

    def _check(self, row: int) -> Checked:
        try:
            pixels, changes = self._decode(row)
        except DataError as error:
            return Checked(reason=str(error))
        if row < len(self._kept):
            self._kept[row] = pixels
        return Checked(hashlib.sha256(pixels.data).digest(), changes)

    def _picture(self, row: int) -> np.ndarray:
        if row < len(self._kept):
            kept: np.ndarray = self._kept[row]
            return kept
        try:
            return self._decode(row).pixels
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
