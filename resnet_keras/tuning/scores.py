"""The metrics of many heads at once, as `Evaluation` defines them."""

from __future__ import annotations

import numpy as np

Metrics = dict[str, float]


def scores(logits: np.ndarray, labels: np.ndarray) -> list[Metrics]:
    """Returns loss, accuracy, balanced accuracy and F1 of each head.

    Args:
        logits: `(heads, pictures, classes)`.
        labels: Class of each picture, `(pictures,)`.

    Returns:
        For each head its metrics, the loss in nats; NaN where a logit is no finite number.

    Example:
        >>> import numpy as np
        >>> [found] = scores(np.array([[[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]]), np.array([0, 1, 1]))
        >>> round(found["accuracy"], 3), round(found["balanced_accuracy"], 3)
        (0.667, 0.75)
    """
    classes = logits.shape[2]
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=2, keepdims=True)
    own = np.take_along_axis(shifted, labels[None, :, None], axis=2)[:, :, 0]
    losses = (np.log(np.exp(shifted).sum(axis=2)) - own).mean(axis=1)
    predicted = logits.argmax(axis=2)
    found = []
    for loss, taken in zip(losses.tolist(), predicted, strict=True):
        counts = np.bincount(labels * classes + taken, minlength=classes**2)
        rates = _rates(counts.reshape(classes, classes))
        finite = np.isfinite(loss)
        found.append({"loss": loss} | {k: v if finite else np.nan for k, v in rates.items()})
    return found


def _rates(confusion: np.ndarray) -> Metrics:
    right, true, taken = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = right[true > 0] / true[true > 0]
    occurs = true + taken > 0
    return {
        "accuracy": float(right.sum() / confusion.sum()),
        "balanced_accuracy": float(recall.mean()),
        "f1": float((2 * right[occurs] / (true + taken)[occurs]).mean()),
    }
