"""How much memory is free."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def available_memory() -> int:
    """Returns the bytes that this process may still take without swapping."""
    return min([_free_on_machine(), *_free_in_container()])


def _free_on_machine() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # macOS does not tell what is free: half of what is installed.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 2 * 2**30


def _free_in_container() -> list[int]:
    """Returns what the control group leaves, which `/proc/meminfo` does not know; or nothing."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no group, or "max" for no limit
        limit = int((group / "memory.max").read_text())
        return [max(0, limit - int((group / "memory.current").read_text()))]
    return []
