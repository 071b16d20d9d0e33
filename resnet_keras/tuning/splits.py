"""The pictures that a search may learn from, and other splits of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from resnet_keras.data import ImageData, Images
from resnet_keras.data.split import split_off


def joined(parts: Sequence[Images]) -> Images:
    """Returns the pictures of several parts of the data as one."""
    first = parts[0]
    return dataclasses.replace(
        first,
        labels=np.concatenate([part.labels for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        metadata={
            name: np.concatenate([part.metadata[name] for part in parts]) for name in first.metadata
        },
        digests=tuple(digest for part in parts for digest in part.digests),
        rows=np.concatenate([part.rows for part in parts]),
    )


def another_split(data: ImageData, *, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Draws the validation part anew, with as many pictures of each class as it has.

    Args:
        data: The pictures.
        seed: Of the draw.

    Returns:
        The indices of the training and of the validation pictures among both parts joined; None
        where the source has a validation part of its own, which stays as it is.
    """
    if data.val is None or "val" not in data.drawn:
        return None
    sizes = np.bincount(data.val.labels, minlength=len(data.class_names)).tolist()
    part = split_off(
        (*data.train.names, *data.val.names),
        np.concatenate([data.train.labels, data.val.labels]),
        {label: [size] for label, size in enumerate(sizes)},
        seed=seed,
    )
    return np.flatnonzero(part == 0), np.flatnonzero(part)


def split_again(data: ImageData, *, seed: int) -> ImageData:
    """Returns the data with `another_split`, or as it is where there is none."""
    split = another_split(data, seed=seed)
    if split is None or data.val is None:
        return data
    both = joined([data.train, data.val])
    train, val = (both.subset(indices) for indices in split)
    return dataclasses.replace(data, train=train, val=val)
