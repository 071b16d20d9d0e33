"""The threads that decode: one small pool for the whole process."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor


def _usable_cores() -> int:
    # A container or a batch system may leave fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Pillow gives up the interpreter lock while it decodes; more threads would only take memory, as
# each holds one picture of up to half a gigabyte in full.
THREADS = min(4, _usable_cores())


@functools.cache
def decoding_pool() -> ThreadPoolExecutor:
    """Returns the pool, which starts its threads when they are first needed."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):
    # The threads stay behind in the parent process, where a child would wait for them.
    os.register_at_fork(after_in_child=decoding_pool.cache_clear)
