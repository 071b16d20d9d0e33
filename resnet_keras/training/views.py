"""The versions of each picture whose activations are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data import Augmentation, Images, flip_views
from resnet_keras.training.shards import ROW_ID
from resnet_keras.training.state import random_states

# Pictures that go through the frozen part together: its speed no longer grows behind this.
EXTRACTION_BATCH = 32
# As `flip_views` orders the mirrored versions.
FLIP_NAMES = {
    "none": ("none",),
    "horizontal": ("none", "horizontal"),
    "vertical": ("none", "vertical"),
    "both": ("none", "horizontal", "vertical", "both"),
}


@dataclasses.dataclass(frozen=True)
class Views:
    """Which versions of each picture are cached.

    The first ones are the picture and its flips, which are exact; further ones are flipped in
    turn and augmented in every other respect as well, drawn from the seed.

    Args:
        count: Number of views, at least 1.
        augmentation: What the pictures are varied by.
        seed: Of the further views.
    """

    count: int
    augmentation: Augmentation
    seed: int

    def is_exact(self, view: int) -> bool:
        """Whether a view is the picture or a flip of it, whatever its place in the data."""
        return view < len(FLIP_NAMES[self.augmentation.flip])

    def transform(self, view: int) -> Callable[..., Any]:
        """Returns the function from uint8 pictures, and the number of their batch, to this view.

        What is drawn depends on seed, view and number alone, and on the place of each picture in
        a batch of a given size.
        """
        still = dataclasses.replace(self.augmentation, flip="none")
        layers = still.layers(derived_seed(self.seed, view))
        states = [state for layer in layers for state in random_states(layer)]

        def apply(images: Any, number: int = 0) -> Any:
            flips = flip_views(images, self.augmentation.flip)
            images = flips[view % len(flips)]
            if self.is_exact(view):
                return images
            for index, state in enumerate(states):
                state.assign([derived_seed(self.seed, view, number, index), 0])
            images = tf.cast(images, tf.float32)
            for layer in layers:
                images = layer(images, training=True)
            return images

        return apply

    def rows(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Returns what names the activations of each picture in each view.

        Args:
            images: The pictures.

        Returns:
            The ids, sorted, each once, and the place of each view of each picture among them,
            `(views, pictures)`. A picture that is there twice has one place, but for the further
            views, which vary it by its place in the data as well.
        """
        found = [self._ids(view, images) for view in range(self.count)]
        ids, places = np.unique(np.concatenate(found), return_inverse=True)
        return ids, places.reshape(self.count, len(images))

    def _ids(self, view: int, images: Images) -> np.ndarray:
        if self.is_exact(view):
            name = FLIP_NAMES[self.augmentation.flip][view]
            names = [f"flip {name}".encode()] * len(images)
        else:
            facts = [dataclasses.asdict(self.augmentation), self.seed, view, EXTRACTION_BATCH]
            drawn = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
            names = [f"varied {drawn} {place}".encode() for place in range(len(images))]
        pairs = zip(images.digests, names, strict=True)
        starts = [hashlib.sha256(b"".join(pair)).digest()[: ROW_ID.itemsize] for pair in pairs]
        return np.array(starts, ROW_ID)


def derived_seed(*values: int) -> int:
    """Returns a seed of 31 bits that depends on all the values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4], "big") >> 1
