"""Pretrained ResNets on one's own pictures and into production, on Keras 3 and TensorFlow."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_keras.builder import build_resnet as build_resnet
    from resnet_keras.data import Augmentation as Augmentation
    from resnet_keras.data import load_images as load_images
    from resnet_keras.distribution.strategies import get_strategy as get_strategy
    from resnet_keras.evaluation import evaluate as evaluate
    from resnet_keras.evaluation import predict as predict
    from resnet_keras.export import export_model as export_model
    from resnet_keras.records import Recipe as Recipe
    from resnet_keras.stage_table import stage_summary as stage_summary
    from resnet_keras.stages import feature_pyramid as feature_pyramid
    from resnet_keras.stages import freeze as freeze
    from resnet_keras.stages import split_at as split_at
    from resnet_keras.stages import unfreeze as unfreeze
    from resnet_keras.training import Phase as Phase
    from resnet_keras.training import fine_tune as fine_tune
    from resnet_keras.tuning import tune as tune
    from resnet_keras.weights import decode_predictions as decode_predictions
    from resnet_keras.weights import list_weights as list_weights
    from resnet_keras.weights import load_weights as load_weights
    from resnet_keras.weights import save_weights as save_weights
    from resnet_keras.weights import weights_info as weights_info

# Loaded on first use: importing TensorFlow takes seconds, which `--help` must not cost.
_HOMES = {
    "build_resnet": "builder",
    "Augmentation": "data",
    "load_images": "data",
    "get_strategy": "distribution.strategies",
    "evaluate": "evaluation",
    "predict": "evaluation",
    "export_model": "export",
    "Recipe": "records",
    "feature_pyramid": "stages",
    "freeze": "stages",
    "split_at": "stages",
    "stage_summary": "stage_table",
    "unfreeze": "stages",
    "Phase": "training",
    "fine_tune": "training",
    "tune": "tuning",
    "decode_predictions": "weights",
    "list_weights": "weights",
    "load_weights": "weights",
    "save_weights": "weights",
    "weights_info": "weights",
}

__all__ = [  # noqa: RUF022  (in the order of a project's life)
    "build_resnet",
    "list_weights",
    "weights_info",
    "load_weights",
    "save_weights",
    "Recipe",
    "load_images",
    "Augmentation",
    "freeze",
    "unfreeze",
    "split_at",
    "feature_pyramid",
    "stage_summary",
    "get_strategy",
    "Phase",
    "fine_tune",
    "tune",
    "evaluate",
    "predict",
    "decode_predictions",
    "export_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Keras loads a saved model only once its layers are registered; whoever loads one has Keras.
if "keras" in sys.modules:
    importlib.import_module(f"{__name__}.batch_norm")
