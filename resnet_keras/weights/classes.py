"""The classes of ImageNet-1k, and predictions in their words."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FILE = Path(__file__).parent / "published" / "imagenet_classes.txt"


class Prediction(NamedTuple):
    """A class and its score.

    Args:
        class_id: WordNet's id of the class, such as "n01440764", if it is one of ImageNet-1k;
            else its index.
        name: Its name.
        score: What the outputs give it.
    """

    class_id: str
    name: str
    score: float


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Returns WordNet's id and the name of each class of ImageNet-1k, in the order of the logits.

    All weights of the registry with 1000 classes have this order, that of the sorted ids. The
    names are torchvision's, which are unique: "crane" is the machine and "crane bird" the bird,
    "maillot" the tights and "maillot tank suit" the swimsuit, "cardigan" the jacket and
    "Cardigan" the dog.
    """
    lines = _FILE.read_text("utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines)
    return tuple((class_id, name) for class_id, _, name in pairs)


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Returns the names of the classes of ImageNet-1k, in the order of the logits."""
    return tuple(name for _, name in imagenet_classes())


def decode_predictions(
    outputs: Any, class_names: Sequence[str] | None = None, *, top: int = 5
) -> list[list[Prediction]]:
    """Names the classes with the highest outputs.

    Args:
        outputs: Logits or probabilities `(batch, classes)`. They are returned as they are: for
            probabilities, apply the softmax before.
        class_names: One name a class; None for the classes of ImageNet-1k.
        top: How many classes a picture; at most all are returned.

    Returns:
        For each picture its classes, the highest score first.

    Raises:
        ValueError: If `outputs` are not `(batch, classes)` with as many classes as there are
            names, or `top` is not positive.

    Example:
        >>> decode_predictions([[0.1, 0.7, 0.2]], ["cat", "dog", "bird"], top=1)
        [[Prediction(class_id='1', name='dog', score=0.7)]]
    """
    scores = np.asarray(outputs, np.float64)
    _check(scores, class_names, top)
    classes = _classes(class_names)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [Prediction(classes[at][0], classes[at][1], float(row[at])) for at in order]
        for row, order in zip(scores, best, strict=True)
    ]


def _classes(names: Sequence[str] | None) -> Sequence[tuple[str, str]]:
    if names is None:
        return imagenet_classes()
    return [(str(index), name) for index, name in enumerate(names)]


def _check(scores: np.ndarray, names: Sequence[str] | None, top: int) -> None:
    if top < 1:
        raise ValueError(f"`top` must be positive. Received: top={top!r}")
    if scores.ndim != 2:
        raise ValueError(
            "`outputs` must have the shape (batch, classes). Received an array of shape "
            f"{scores.shape}"
        )
    count = len(_classes(names))
    if scores.shape[1] != count:
        whose = "ImageNet-1k has" if names is None else "`class_names` has"
        raise ValueError(
            f"`outputs` must have one column a class, and {whose} {count}: give the names of "
            f"the network's own classes. Received: {scores.shape[1]} columns"
        )
