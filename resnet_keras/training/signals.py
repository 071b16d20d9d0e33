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
    """Remembers that a signal came; the run looks at it between steps."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0

    def request(self, number: int, frame: FrameType | None) -> None:
        """Takes the first signal; a second one acts at once, as it would without a run."""
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._since > SAME_SECONDS:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
            signal.raise_signal(number)

    def join(self) -> None:
        """Takes over a request that came to another process of the run."""
        self.signal = self.signal or signal.SIGTERM

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
def stop_requests() -> Iterator[StopRequest]:
    """Catches SIGTERM and SIGINT inside the block; outside the main thread nothing is caught."""
    stop = StopRequest()
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
