"""Layouts of foreign weights: whose names and shapes a file has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.entries import Layout
from resnet_keras.weights.files import listed
from resnet_keras.weights.layouts import (
    classification_models,
    keras_applications,
    keras_hub,
    keras_names,
    torch,
)
from resnet_keras.weights.layouts.table import Table


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is to be known about a layout.

    Args:
        tidy: Brings the names of a file to the layout's own.
        recognises: Whether names are of the layout.
        candidates: The networks that files in this layout are of, but for their widths.
        table: The name map of a network, for a file with such names.
        usual: The recipe of most files, and whether they want blue, green, red.
    """

    tidy: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    recognises: Callable[[Collection[str]], bool]
    candidates: Callable[[], list[ResNetSpec]]
    table: Callable[[ResNetSpec, Collection[str]], Table]
    usual: Callable[[ResNetSpec], tuple[Recipe, bool]]


# In the order in which names are compared: KerasHub's takes any numbered layers.
LAYOUTS: dict[Layout, Rules] = {
    "torch": Rules(torch.tidy, torch.recognises, torch.candidates, torch.table, torch.usual),
    "keras_applications": Rules(
        keras_names.tidy,
        keras_applications.recognises,
        keras_applications.candidates,
        keras_applications.table,
        keras_applications.usual,
    ),
    "classification_models": Rules(
        keras_names.tidy,
        classification_models.recognises,
        classification_models.candidates,
        classification_models.table,
        classification_models.usual,
    ),
    "keras_hub": Rules(
        keras_names.tidy,
        keras_hub.recognises,
        keras_hub.candidates,
        keras_hub.table,
        keras_hub.usual,
    ),
}


def detect_layout(tensors: Mapping[str, np.ndarray], *, label: str) -> Layout:
    """Returns the layout whose names the tensors of a file have.

    Args:
        tensors: Arrays by the file's own names.
        label: What they are from, for messages.

    Raises:
        WeightsError: If the names are of no known layout.
    """
    for layout, rules in LAYOUTS.items():
        if rules.recognises(rules.tidy(tensors)):
            return layout
    raise WeightsError(
        f"{label} was written by another program, and its tensors ({listed(tensors, limit=3)}) "
        "are named like those of no known ResNet; known are torchvision, timm, keras.applications, "
        "KerasHub, classification_models, and files that `save_weights` wrote."
    )
