"""Searches over head and depth, on the engine of keras-tuner."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_keras.tuning.finish import TuneResult as TuneResult
    from resnet_keras.tuning.hypermodel import ResNetHyperModel as ResNetHyperModel
    from resnet_keras.tuning.search import tune as tune

# Loaded on first use: the processes that train heads need none of them.
_HOMES = {"ResNetHyperModel": "hypermodel", "TuneResult": "finish", "tune": "search"}

__all__ = ["ResNetHyperModel", "TuneResult", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
