"""The backbones of a search by name, each with its weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from resnet_keras.builder import build_resnet
from resnet_keras.weights import Weights, read_weights, resolve

DEPTHS = (18, 34, 50)
Source = str | Path | None


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A depth with its weights.

    Args:
        depth: Number of weighted layers; None for that of the weights.
        weights: A name of `list_weights()`, "imagenet", a file, a run folder, or None for random.
    """

    depth: int | None
    weights: Source

    @property
    def name(self) -> str:
        """What the trials call it."""
        if self.weights is None:
            return f"resnet{self.depth}"
        found = Path(str(resolve(self.weights, self.depth)))
        return found.stem if found.exists() else found.name

    @functools.cached_property
    def _read(self) -> Weights | None:
        return None if self.weights is None else read_weights(resolve(self.weights, self.depth))

    def build(self, *, seed: int, **options: Any) -> keras.Model:
        """Returns the network with these weights, and whatever they do not have by the seed.

        Args:
            seed: Of what is random in it.
            **options: Those of `build_resnet`.
        """
        keras.utils.set_random_seed(seed)
        depth = self.depth if self._read is None else None
        return build_resnet(depth, weights=self._read, **options)

    def options(self) -> dict[str, Any]:
        """Returns what `resnet-keras finetune --config` calls it."""
        found: dict[str, Any] = {"weights": "none" if self.weights is None else str(self.weights)}
        return found if self.depth is None else {**found, "depth": self.depth}


def backbones_of(
    depths: Sequence[int] | None, weights: Source | Sequence[Source]
) -> dict[str, Backbone]:
    """Returns the backbones of a search by name.

    Args:
        depths: Those of "imagenet", and of random weights.
        weights: One or more; a name, a file or a run folder has a depth of its own.

    Raises:
        ValueError: If there is none, or two have one name.

    Example:
        >>> list(backbones_of((18, 50), ["imagenet", "open_nsfw"]))
        ['resnet18.tv_in1k', 'resnet50.tv_in1k', 'open_nsfw']
    """
    sources = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    found = [
        Backbone(depth, source)
        for source in sources
        for depth in ((depths or DEPTHS) if source in (None, "imagenet") else (None,))
    ]
    names = [each.name for each in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            "`depths` and `weights` must name at least one backbone, and each only once. "
            f"Received: depths={depths!r}, weights={weights!r}"
        )
    return dict(zip(names, found, strict=True))
