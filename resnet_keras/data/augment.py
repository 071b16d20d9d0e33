"""How far training pictures are changed at random, and the exact flips."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import keras

from resnet_keras.data.random_layers import RandomColour, RandomGeometry

Flip = Literal["none", "horizontal", "vertical", "both"]


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
        >>> [layer.name for layer in Augmentation(rotation=5).layers(seed=0)]
        ['augment_geometry']
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

    def layers(self, seed: int) -> list[keras.layers.Layer]:
        """Returns the layers, to be called in this order on pixels in [0, 255].

        They work in float32 whatever the precision policy, and do nothing outside training.

        Args:
            seed: Each kind of change draws from its own stream of this seed, so that leaving
                one out does not move the others.
        """
        layers: list[keras.layers.Layer] = []
        if self.flip != "none" or self.rotation or self.translation or self.zoom:
            geometry = RandomGeometry(
                flip=self.flip,
                rotation=self.rotation,
                translation=self.translation,
                zoom=self.zoom,
                seed=seed,
                name="augment_geometry",
            )
            layers.append(geometry)
        if self.brightness or self.contrast:
            colour = RandomColour(
                brightness=self.brightness, contrast=self.contrast, seed=seed, name="augment_colour"
            )
            layers.append(colour)
        return layers


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
