"""Pictures that are already in memory, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_keras.data.listing import Listing
from resnet_keras.errors import DataError

Labels = Sequence[int] | Sequence[str] | np.ndarray


def read_arrays(pictures: np.ndarray, labels: Labels | None) -> Listing:
    """Lists the pictures of an array.

    Args:
        pictures: Pixels in [0, 255], uint8 `(n, height, width, channels)` with 1, 3 or 4 channels.
        labels: `(n,)`: integers from 0, every class at least once, or class names.

    Raises:
        TypeError: If pixels or labels are of another type.
        ValueError: If the shapes do not fit.
        DataError: If the labels are out of range or of one class only.
    """
    _check_pixels(pictures)
    indices, class_names = _indexed(labels, len(pictures))
    digits = len(str(max(0, len(pictures) - 1)))
    return Listing(
        source="the array",
        names=tuple(f"{index:0{digits}d}" for index in range(len(pictures))),
        labels=indices.astype(np.int32),
        parts=np.full(len(pictures), "train"),
        class_names=class_names,
        fetch=lambda index: pictures[index],
    )


def _check_pixels(pictures: np.ndarray) -> None:
    if pictures.dtype != np.uint8:
        raise TypeError(f"Pictures must be uint8 in [0, 255]. Received: dtype={pictures.dtype}")
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3, 4) or 0 in pictures.shape[1:]:
        raise ValueError(
            "Pictures must have the shape (n, height, width, channels) with 1, 3 or 4 channels. "
            f"Received: shape={pictures.shape}"
        )


def _indexed(labels: Labels | None, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if labels is None:
        raise ValueError("Pictures in an array need `labels=`. Received: labels=None")
    values: np.ndarray[Any, Any] = np.asarray(labels)
    if values.shape != (count,):
        raise ValueError(
            f"`labels` must have one value for each of {count} pictures. "
            f"Received: shape={values.shape}"
        )
    if values.dtype.kind == "U":
        names, indices = np.unique(values, return_inverse=True)
        return indices, tuple(names.tolist())
    if count and values.dtype.kind not in "iu":
        raise TypeError(f"`labels` must be integers or strings. Received: dtype={values.dtype}")
    return values, _numbered(values)


def _numbered(values: np.ndarray) -> tuple[str, ...]:
    found = np.unique(values)
    if not np.array_equal(found, np.arange(len(found))):
        first = found[found != np.arange(len(found))][0]
        raise DataError(
            f"Labels must be 0 to n - 1 with at least one picture each, and the array has "
            f"{len(found)} classes but the label {first}; number the classes from 0 without gaps."
        )
    return tuple(str(value) for value in found)
