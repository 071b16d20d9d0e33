"""The records of weights: their network, their recipe, their classes; standard library only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from resnet_keras.specs import ResNetSpec

Interpolation = Literal["bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How pixels become the numbers that the weights were trained on.

    A picture is resized so that its short side is `image_size / crop`, rounded down, the central
    `image_size` square is cut out, and each channel becomes `(pixel - mean) / std`.

    Args:
        image_size: Side of the square that the network sees, in pixels.
        crop: Share of the resized short side that the square keeps, in (0, 1].
        interpolation: How the picture is resized; always antialiased.
        mean: Subtracted from each channel, in RGB order, in units of [0, 255].
        std: Divides each channel afterwards, in RGB order, in units of [0, 255].
    """

    image_size: int = 224
    crop: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"`image_size` must be positive. Received: {self.image_size!r}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"`crop` must lie in (0, 1]. Received: crop={self.crop!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                "`interpolation` must be 'bilinear' or 'bicubic'. "
                f"Received: interpolation={self.interpolation!r}"
            )
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                "`mean` and `std` need one value a channel, and `std` positive ones. "
                f"Received: mean={self.mean!r}, std={self.std!r}"
            )

    @property
    def resize_to(self) -> int:
        """Short side of the resized picture before the crop, in pixels; rounded down, as timm."""
        # The quotient of 224 and 224 / 232 must not become 231 for the sake of its last bit.
        return math.floor(self.image_size / self.crop + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Rebuilds the recipe that `to_dict` wrote."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclasses.dataclass(frozen=True)
class Record:
    """What a set of weights is: its network, its recipe, its classes and where it comes from.

    Args:
        spec: The network that the weights belong to.
        recipe: The preprocessing that they were trained with.
        class_names: One name a class, in the order of the logits; empty if not known.
        name: Name in the registry, or of the file or run.
        source: Where the weights come from, for people.
        licence: Licence of the weights, an SPDX identifier where there is one.
    """

    spec: ResNetSpec = dataclasses.field(default_factory=ResNetSpec)
    recipe: Recipe = Recipe()
    class_names: tuple[str, ...] = ()
    name: str = "random"
    source: str = "random initialisation"
    licence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as a dictionary that JSON can hold."""
        return {
            **dataclasses.asdict(self),
            "spec": self.spec.to_dict(),
            "recipe": self.recipe.to_dict(),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """Rebuilds the record that `to_dict` wrote."""
        return cls(
            **{
                **values,
                "spec": ResNetSpec(**values["spec"]),
                "recipe": Recipe.from_dict(values["recipe"]),
                "class_names": tuple(values["class_names"]),
            }
        )
