"""Weights: fetched and read, verified, and loaded completely or not at all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_keras.weights.adapt import select_classes as select_classes
    from resnet_keras.weights.assign import head_layers as head_layers
    from resnet_keras.weights.assign import load_weights as load_weights
    from resnet_keras.weights.assign import save_weights as save_weights
    from resnet_keras.weights.classes import decode_predictions as decode_predictions
    from resnet_keras.weights.entries import RegistryEntry as RegistryEntry
    from resnet_keras.weights.files import Weights as Weights
    from resnet_keras.weights.files import read_tensors as read_tensors
    from resnet_keras.weights.files import write_tensors as write_tensors
    from resnet_keras.weights.onnx import read_onnx as read_onnx
    from resnet_keras.weights.registry import REGISTRY as REGISTRY
    from resnet_keras.weights.registry import list_weights as list_weights
    from resnet_keras.weights.registry import resolve as resolve
    from resnet_keras.weights.registry import weights_info as weights_info
    from resnet_keras.weights.sources import read_weights as read_weights

# Loaded on first use: the registry must be listed without the seconds that Keras takes.
_HOMES = {
    "select_classes": "adapt",
    "head_layers": "assign",
    "load_weights": "assign",
    "save_weights": "assign",
    "decode_predictions": "classes",
    "RegistryEntry": "entries",
    "Weights": "files",
    "read_tensors": "files",
    "write_tensors": "files",
    "read_onnx": "onnx",
    "REGISTRY": "registry",
    "list_weights": "registry",
    "weights_info": "registry",
    "read_weights": "sources",
    "resolve": "registry",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
