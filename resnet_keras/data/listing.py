"""What a source of pictures holds before anything is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from resnet_keras.errors import DataError

PARTS = ("train", "val", "test")
Encoded = Path | bytes | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """Pictures not yet decoded, each with its label and its part.

    Args:
        source: What the pictures come from, for people.
        names: Relative path or identifier of each picture.
        labels: Class of each picture, int32 `(n,)`.
        parts: One of `PARTS` for each picture, `(n,)`; all "train" where nothing is split yet.
        class_names: One name a class, in the order of the labels.
        fetch: Returns the picture of an index: a file, encoded bytes or pixels.
        metadata: Further arrays with one value a picture.
        ignored: Number of files that are no pictures, by extension.
        notes: Sentences for the report.
    """

    source: str
    names: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    class_names: tuple[str, ...]
    fetch: Callable[[int], Encoded]
    metadata: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            only = f" ({self.class_names[0]!r})" if self.class_names else ""
            raise DataError(
                f"Classification needs pictures of at least two classes, and {self.source} has "
                f"{len(self.class_names)}{only}."
            )
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.class_names)))
        if len(wrong):
            raise DataError(
                f"Labels must lie in [0, {len(self.class_names)}), and {self.names[wrong[0]]} of "
                f"{self.source} has {self.labels[wrong[0]]}, as {len(wrong)} pictures in all have "
                "labels out of range; correct them or leave these pictures out."
            )
