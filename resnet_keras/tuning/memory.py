"""A limit that turns too little memory into an error of the trial, not the end of the process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from resnet_keras.data.memory import available_memory

_USED = Path("/proc/self/statm")
# What stays free: the memory of other processes grows as well, and an error needs some itself.
_SLACK = 0.1


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Lets what does not fit into the free memory raise an error inside the block.

    That is `MemoryError`, or TensorFlow's `ResourceExhaustedError`; else the kernel would kill
    the process. Where the system has no such limit (only Linux has), and where TensorFlow drives
    a GPU, whose driver reserves addresses beyond all memory, nothing is limited.

    Example:
        >>> from resnet_keras.tuning.memory import limited_memory
        >>> with limited_memory():
        ...     small = bytes(1000)
    """
    if not _USED.exists() or _has_gpu():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _taken() + int(available_memory() * (1 - _SLACK))
    ends = [end for end in (limit, soft, hard) if end != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(ends), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _taken() -> int:
    """Returns the bytes of addresses that this process has."""
    import resource

    return int(_USED.read_text().split()[0]) * resource.getpagesize()


def _has_gpu() -> bool:
    """Returns whether TensorFlow, if this process has imported it, has a GPU."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and bool(tensorflow.config.list_physical_devices("GPU"))
