"""What environment variables set: the folder of the cache, the time-outs, the network."""

from __future__ import annotations

import math
import os
from pathlib import Path

CACHE_VARIABLE = "RESNET_KERAS_CACHE"
OFFLINE_VARIABLE = "RESNET_KERAS_OFFLINE"
TIMEOUT_VARIABLE = "RESNET_KERAS_TIMEOUT"


def cache_folder() -> Path:
    """Returns the folder of the cache, which need not exist yet.

    The environment variable RESNET_KERAS_CACHE names it; otherwise it is `resnet_keras` in the
    user's own cache folder.

    Example:
        >>> os.environ["RESNET_KERAS_CACHE"] = "/data/cache"
        >>> cache_folder().as_posix()
        '/data/cache'
        >>> del os.environ["RESNET_KERAS_CACHE"]
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("resnet_keras"))


def is_offline(offline: bool | None) -> bool:
    """Returns the choice of the caller, or else that of the variable RESNET_KERAS_OFFLINE."""
    if offline is not None:
        return offline
    return os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0")


def timeouts() -> tuple[float, float]:
    """Returns the time-outs of connecting and of reading, in seconds.

    The environment variable RESNET_KERAS_TIMEOUT sets both.

    Raises:
        ValueError: If that is no number of seconds.

    Example:
        >>> timeouts()
        (10.0, 30.0)
    """
    value = os.environ.get(TIMEOUT_VARIABLE)
    if not value:
        return 10.0, 30.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"{TIMEOUT_VARIABLE} must be a number of seconds above 0. Received: {value!r}"
        )
    return seconds, seconds
