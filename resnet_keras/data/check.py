"""Decodes pictures once: finds the bad ones, notes the odd ones, keeps the others."""

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
NOWHERE = -1  # the place of a picture that is not kept


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
        self._listing, self._recipe, self._max_pixels = listing, recipe, max_pixels
        self._shape = (recipe.image_size, recipe.image_size, 3)
        self._places = np.full(len(listing.names), NOWHERE)
        self._make_room(0)

    def check(self, rows: np.ndarray) -> dict[int, Checked]:
        """Decodes pictures, several at a time, and keeps them as far as there is room.

        The room is made at the first call; at further ones pictures take that of others.

        Args:
            rows: All pictures that are wanted from now on, each once; those that the last call
                wanted too are not decoded again.

        Returns:
            What decoding showed, by row.
        """
        new = self._place(rows)
        checked: dict[int, Checked] = {}
        with _Meter(len(new)) as meter:
            for start in range(0, len(new), CHUNK):
                chunk = new[start : start + CHUNK].tolist()
                for row, result in zip(chunk, decoding_pool().map(self._check, chunk), strict=True):
                    checked[row] = result
                    meter.advance()
        return checked

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Returns the pictures of some rows, uint8 `(k, size, size, 3)`.

        Raises:
            DataError: If a picture can no longer be read.
        """
        places = self._places[rows]
        if np.all((places != NOWHERE) & (places < len(self._kept))):
            kept: np.ndarray = self._kept[places]
            return kept
        found = np.empty((len(rows), *self._shape), np.uint8)
        for _ in decoding_pool().map(self._fill, found, rows.tolist()):
            pass
        return found

    def _make_room(self, count: int) -> None:
        room = int(MEMORY_SHARE * available_memory()) // math.prod(self._shape) if count else 0
        self._kept = np.empty((min(count, room), *self._shape), np.uint8)
        self._on_disk = PictureFile(count - len(self._kept), self._shape)

    def _place(self, rows: np.ndarray) -> np.ndarray:
        """Gives each row its place, and returns those that had none; the others lose theirs."""
        old = np.flatnonzero(self._places != NOWHERE)
        if not len(old):
            self._make_room(len(rows))
        new = np.setdiff1d(rows, old)
        self._places[np.setdiff1d(old, rows)] = NOWHERE
        free = np.setdiff1d(np.arange(len(rows)), self._places)
        self._places[new] = free[: len(new)]
        return new

    def _check(self, row: int) -> Checked:
        try:
            pixels, changes = self._decode(row)
        except DataError as error:
            return Checked(reason=str(error))
        place = int(self._places[row])
        if place < len(self._kept):
            self._kept[place] = pixels
        else:
            self._on_disk.write(place - len(self._kept), pixels)
        return Checked(hashlib.sha256(pixels.data).digest(), changes)

    def _fill(self, target: np.ndarray, row: int) -> None:
        """Writes the picture of a row into an array."""
        place = int(self._places[row])
        if NOWHERE < place < len(self._kept):
            target[:] = self._kept[place]
        elif place == NOWHERE or not self._on_disk.read(place - len(self._kept), target):
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
            # In one piece, as another worker may write there at the same time.
            sys.stderr.write(f"checked {self._done:,} of {self._total:,} pictures\n")
