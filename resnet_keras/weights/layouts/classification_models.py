"""Names of qubvel's classification_models: `bn_data`, `conv0`, `stage1_unit1_conv1`, `fc1`.

Its networks begin with a batch norm on the pixels, which becomes the mean and the standard
deviation of the recipe.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.layouts.keras_names import keras_table
from resnet_keras.weights.layouts.plan import Layer
from resnet_keras.weights.layouts.table import MEAN, STD, Row, Table

# classification_models/models/resnet.py
_EPSILON = 2e-5
_DEPTHS = (18, 34, 50, 101, 152)
_PIXELS = "bn_data"


def candidates() -> list[ResNetSpec]:
    """Returns the networks of classification_models."""
    return [
        ResNetSpec(depth, "v2", bn_epsilon=_EPSILON, shortcut="stage", stem_norm=True)
        for depth in _DEPTHS
    ]


def recognises(names: Collection[str]) -> bool:
    """Returns whether the names are of this layout."""
    return "stage1_unit1_conv1/kernel" in names


def usual(_: ResNetSpec) -> tuple[Recipe, bool]:
    """Returns the usual recipe, and whether the files want blue, green, red."""
    return Recipe(), False


def table(spec: ResNetSpec, names: Collection[str]) -> Table:
    """Returns the name map of a network."""
    statistics = (f"{_PIXELS}/moving_variance", f"{_PIXELS}/moving_mean", f"{_PIXELS}/beta")
    return {
        **keras_table(spec, names, _name),
        MEAN: Row(statistics, (None,), _mean),
        STD: Row(statistics[:1], (None,), _std),
    }


def _std(variance: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(variance + _EPSILON))


def _mean(variance: np.ndarray, mean: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return np.asarray(mean - beta * _std(variance))


def _name(layer: Layer) -> str:
    if layer.kind == "dense":
        return "fc1"
    if layer.position == "norm":
        return "bn1"
    if not layer.block:
        return f"{layer.kind}0"
    start = f"stage{layer.stage}_unit{layer.block}"
    if layer.position == "shortcut":
        return f"{start}_sc"
    # Their norms are counted before the convolutions.
    number = {"preact": 1}.get(layer.position) or int(layer.position) + (layer.kind == "bn")
    return f"{start}_{layer.kind}{number}"
