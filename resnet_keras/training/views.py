"""The versions of each picture whose activations are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_keras.data import Augment, Augmentation, Images, flip_views
from resnet_keras.data.augment import VERSION
from resnet_keras.training.shards import ROW_ID

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

    def transform(self, view: int, *, count: int) -> Callable[[np.ndarray, np.ndarray], Any]:
        """Returns the function from uint8 pictures, and their indices, to this view of them.

        What it makes of a picture depends on the picture, its index, the view and the seed alone.

        Args:
            view: Number of the view, from 0.
            count: Number of all pictures.
        """
        still = dataclasses.replace(self.augmentation, flip="none")
        draws = still.draws((self.seed, view), count)
        augment = Augment(still)

        def apply(images: np.ndarray, pictures: np.ndarray) -> Any:
            flips = flip_views(images, self.augmentation.flip)
            flipped = flips[view % len(flips)]
            return flipped if self.is_exact(view) else augment([flipped, draws[pictures]])

        return apply

    def rows(self, images: Images, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns what names the activations of each picture in each view.

        Args:
            images: The pictures.
            own: Which of them are wanted, bool `(pictures,)`; None for all.

        Returns:
            The ids, sorted, each once, and the place of each view of each picture among them,
            `(views, pictures)`, -1 for a picture that is not wanted. A picture that is there
            twice has one place, but for the further views, which vary it by its place in the
            data as well.
        """
        own = np.ones(len(images), np.bool_) if own is None else own
        found = [self._ids(view, images)[own] for view in range(self.count)]
        ids, rows = np.unique(np.concatenate(found), return_inverse=True)
        places = np.full((self.count, len(images)), -1)
        places[:, own] = rows.reshape(self.count, -1)
        return ids, places

    def _ids(self, view: int, images: Images) -> np.ndarray:
        if self.is_exact(view):
            name = FLIP_NAMES[self.augmentation.flip][view]
            names = [f"flip {name}".encode()] * len(images)
        else:
            facts = [dataclasses.asdict(self.augmentation), self.seed, view, VERSION]
            drawn = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
            names = [f"varied {drawn} {place}".encode() for place in range(len(images))]
        pairs = zip(images.digests, names, strict=True)
        starts = [hashlib.sha256(b"".join(pair)).digest()[: ROW_ID.itemsize] for pair in pairs]
        return np.array(starts, ROW_ID)


def derived_seed(*values: int) -> int:
    """Returns a seed of 31 bits that depends on all the values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4], "big") >> 1
