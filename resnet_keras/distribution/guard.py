"""Ends workers whose launcher was killed; run as a script, so that it starts at once.

Each line of standard input names a process group that has begun, or one that has ended if it was
named before. The system closes standard input with the launcher, however that ends: groups that
are still there are asked to stop then, and killed ten seconds later.
"""

import contextlib
import os
import signal
import sys
import time

STOP_SECONDS = 10.0


def signal_group(group: int, number: int) -> bool:
    """Sends a signal to a process group; returns whether it was there to take it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def main() -> None:
    """Waits for the launcher's end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        groups ^= {int(line)}
    for group in groups:
        signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        groups = {group for group in groups if signal_group(group, 0)}
    for group in groups:
        signal_group(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
