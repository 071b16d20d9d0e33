"""The loss of a user's own search, whose labels may be integers or one-hot."""

from __future__ import annotations

from typing import Any

import keras

from resnet_keras.layers import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits, with integer or one-hot labels, which may be smoothed.

    Args:
        label_smoothing: Share of each label spread over all classes, in [0, 1).
        **options: Those of `keras.losses.Loss`.
    """

    def __init__(self, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each picture, `(batch,)`."""
        one_hot = y_true.shape[1:] == y_pred.shape[1:]
        kind = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
        plain = getattr(keras.losses, kind)(y_true, y_pred, from_logits=True)
        uniform = -keras.ops.mean(keras.ops.log_softmax(y_pred), axis=-1)
        return plain + self.label_smoothing * (uniform - plain)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
