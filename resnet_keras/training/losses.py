"""The loss of each picture in a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from resnet_keras.training.optimizers import Phase

Loss = Callable[[Any, Any], Any]


def make_loss(phase: Phase, labels: np.ndarray, num_classes: int) -> Loss:
    """Returns the function from one-hot targets and logits to the loss of each picture.

    Args:
        phase: The phase.
        labels: Class of each picture of the whole training part, whoever sees it.
        num_classes: Number of classes.
    """
    plain: Loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=phase.label_smoothing, reduction=None
    )
    if not phase.class_balance:
        return plain
    weights = class_weights(labels, num_classes)

    def balanced(targets: Any, logits: Any) -> Any:
        return plain(targets, logits) * keras.ops.sum(targets * weights, axis=-1)

    return balanced


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns pictures / (classes * pictures of the class), float32 `(num_classes,)`.

    Over the pictures these weights have the mean 1, if there are some of each class.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32)
