"""Stops a run at a step boundary on SIGTERM and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# 128 plus the number of the signal, as a shell reports it.
SIGNAL_EXIT = 128
# Slurm and systemd send SIGTERM to all processes of a job, and a launcher passes on its own.
SAME_SECONDS = 2.0


class StopRequest:
    """Remembers that a signal came; the run looks at it between steps.

    Args:
        alone: Whether there is no other process, which had to know of it to leave at the same step.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._alone, self._joined = alone, False

    @property
    def is_agreed(self) -> bool:
        """Whether a signal came, and all processes of the run know of it."""
        return self.signal is not None and (self._alone or self._joined)

    def request(self, number: int, frame: FrameType | None) -> None:
        """Takes the first signal; a second one acts at once, as it would without a run."""
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._since > SAME_SECONDS:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
            signal.raise_signal(number)

    def join(self) -> None:
        """Takes a request that all processes of the run know of, to whichever of them it came."""
        self.signal, self._joined = self.signal or signal.SIGTERM, True

    def leave(self) -> None:
        """Ends the run as the signal asked, if one came.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with exit code 143.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(SIGNAL_EXIT + self.signal)


@contextlib.contextmanager
def stop_requests(*, alone: bool = True) -> Iterator[StopRequest]:
    """Catches SIGTERM and SIGINT inside the block; outside the main thread nothing is caught.

    Args:
        alone: Whether there is no other process that would have to stop with this one.
    """
    stop = StopRequest(alone=alone)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop.request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
