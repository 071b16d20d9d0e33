"""How far training pictures are changed at random, and the exact flips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

Flip = Literal["none", "horizontal", "vertical", "both"]
# What each column of the draws decides.
COLUMNS = ("across", "down", "rotation", "shift_y", "shift_x", "zoom", "brightness", "contrast")
# Sets the draws apart from what else is drawn with the same seed, such as the order of pictures.
STREAM = 0xA06
# Of the draws and of what is made of them: activations that another version led to are not used.
VERSION = 2


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far training pictures are changed at random; zero leaves a change out.

    What comes into view at the borders is the picture's own reflection.

    Args:
        flip: Directions in which a picture may be mirrored, each with probability 1/2.
        rotation: Largest turn to either side, in degrees, [0, 180].
        translation: Largest shift in either direction, as a share of the side, [0, 1).
        zoom: Largest change of scale, as a share, [0, 1).
        brightness: Largest change of all pixels, as a share of 255, [0, 1].
        contrast: Largest change of the contrast, as a share, [0, 1].

    Raises:
        ValueError: If a value lies outside its range.

    Example:
        >>> from resnet_keras.data import Augmentation
        >>> Augmentation(rotation=5).draws((0, 1), count=3).shape
        (3, 8)
    """

    flip: Flip = "horizontal"
    rotation: float = 0.0
    translation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        _check_flip(self.flip)
        limits = {
            "rotation": 180,
            "translation": 0.99,
            "zoom": 0.99,
            "brightness": 1,
            "contrast": 1,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"`{name}` must lie in [0, {limit}]. Received: {name}={value!r}")

    def draws(self, seed: Sequence[int], count: int) -> np.ndarray:
        """Returns the random numbers that decide how each picture is changed.

        Those of a picture depend on the seed and its index alone, not on how many pictures there
        are; and each kind of change has its own column, so that leaving one out does not move the
        others. All pictures of another epoch are drawn with another seed.

        Args:
            seed: Integers of at least 0, such as those of a run and of an epoch.
            count: Number of pictures.

        Returns:
            Uniform float32 `(count, 8)` in [0, 1), a row a picture, as `Augment` takes them.
        """
        generator = np.random.default_rng((*seed, STREAM))
        return generator.random((count, len(COLUMNS)), np.float32)


def flip_views(images: Any, flip: Flip) -> list[Any]:
    """Returns the mirrored versions of a batch that `flip` names, the batch itself first.

    Args:
        images: `(batch, height, width, channels)`, an array or a tensor.
        flip: "none" for one version, "horizontal" or "vertical" for two, "both" for four.

    Returns:
        Batches of the kind and shape of `images`.

    Raises:
        ValueError: If `flip` is not one of the four.

    Example:
        >>> import numpy as np
        >>> from resnet_keras.data import flip_views
        >>> [view.ravel().tolist() for view in flip_views(np.arange(2).reshape(1, 1, 2, 1),
        ...                                               "horizontal")]
        [[0, 1], [1, 0]]
    """
    _check_flip(flip)
    views = [images]
    if flip in ("horizontal", "both"):
        views += [view[:, :, ::-1] for view in views]
    if flip in ("vertical", "both"):
        views += [view[:, ::-1] for view in views]
    return views


def _check_flip(flip: str) -> None:
    if flip not in get_args(Flip):
        raise ValueError(f"`flip` must be one of {list(get_args(Flip))}. Received: flip={flip!r}")
