"""A progress bar for downloads that take a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# Shorter downloads need no bar, in seconds.
_PATIENCE = 2.0


class ProgressBar:
    """Shows on standard error how far a download is, if that is a terminal.

    Args:
        name: Name of the file.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def update(self, done: int, total: int | None) -> None:
        """Shows that `done` of `total` bytes are there; None if nobody knows how many come."""
        if self._bar is None and time.monotonic() - self._start > _PATIENCE:
            self._bar = _open_bar(self._name)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def close(self) -> None:
        """Takes the bar away, until the next update."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _open_bar(name: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    bar.add_task(name, total=None)
    bar.start()
    return bar
