"""How much memory may be taken."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")
VARIABLE = "RESNET_KERAS_MEMORY"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def available_memory() -> int:
    """Returns the bytes that this process may still take.

    That is what the machine and the container have free, and not more than the environment
    variable `RESNET_KERAS_MEMORY` allows, such as 512MB, 2GB or a number of bytes.

    Raises:
        ValueError: If the variable holds anything else.

    Example:
        >>> import os
        >>> from resnet_keras.data.memory import available_memory
        >>> os.environ["RESNET_KERAS_MEMORY"] = "1.5MB"
        >>> available_memory()
        1500000
        >>> del os.environ["RESNET_KERAS_MEMORY"]
    """
    return min([_free_on_machine(), *_free_in_container(), *_allowed()])


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
    with contextlib.suppress(OSError, ValueError):  # no group, or "max" for no limit
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        return [max(0, limit - used + _cached_files())]
    return []


def _cached_files() -> int:
    """Returns the bytes of files that the kernel keeps only as long as nobody needs the memory."""
    with contextlib.suppress(OSError, ValueError):
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines).get("inactive_file", 0))
    return 0


def _allowed() -> list[int]:
    """Returns what the environment allows, or nothing."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return []
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?B|)", value.upper())
    if not found:
        raise ValueError(
            f"`{VARIABLE}` must be a number of bytes, or a number with KB, MB, GB or TB behind it, "
            f"such as 512MB. Received: {VARIABLE}={value!r}"
        )
    return [int(float(found[1]) * UNITS[found[2]])]
