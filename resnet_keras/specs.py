"""The architecture table and the records that say what a network is; standard library only."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

Block = Literal["basic", "bottleneck"]
Variant = Literal["v1", "v1.5"]
Interpolation = Literal["bilinear", "bicubic"]

# depth -> block and blocks per stage: He et al. 2015, arXiv 1512.03385, table 1.
DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
STAGE_WIDTHS = (64, 128, 256, 512)
STEM_FILTERS = 64
EXPANSION: dict[Block, int] = {"basic": 1, "bottleneck": 4}
VARIANTS: tuple[Variant, ...] = ("v1", "v1.5")


@dataclasses.dataclass(frozen=True)
class ResNetSpec:
    """What the convolutions compute; two networks with equal specs have equal graphs.

    Args:
        depth: Number of weighted layers, a key of `DEPTHS`.
        variant: Where a bottleneck block has its stride: on the first 1x1 convolution ("v1",
            the paper) or on the 3x3 ("v1.5", torchvision and timm). Basic blocks are the same.
        width: Multiplier of the stage widths 64 to 512; the stem keeps its 64 filters.
        pool_padding: Padding of the stem's max pool: "symmetric" (torch), or "same", which
            pads bottom and right only on even sizes (TensorFlow).
        bn_epsilon: What batch norm adds to the variance.
    """

    depth: int = 50
    variant: Variant = "v1.5"
    width: float = 1.0
    pool_padding: Literal["symmetric", "same"] = "symmetric"
    bn_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise ValueError(
                f"`depth` must be one of {sorted(DEPTHS)}. Received: depth={self.depth!r}"
            )
        if self.variant not in VARIANTS:
            raise ValueError(
                f"`variant` must be one of {list(VARIANTS)}. Received: variant={self.variant!r}"
            )
        if not 0 < self.width <= 16:
            raise ValueError(f"`width` must lie in (0, 16]. Received: width={self.width!r}")

    @property
    def block(self) -> Block:
        """Kind of block: "basic" or "bottleneck"."""
        return DEPTHS[self.depth][0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return DEPTHS[self.depth][1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels inside the blocks of each stage."""
        return tuple(max(1, round(width * self.width)) for width in STAGE_WIDTHS)

    @property
    def expansion(self) -> int:
        """Output channels of a block over its width."""
        return EXPANSION[self.block]

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How pixels become the numbers that the weights were trained on.

    A picture is resized so that its short side is `image_size / crop`, the central
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
        """Short side of the resized picture before the crop, in pixels."""
        return round(self.image_size / self.crop)

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

    spec: ResNetSpec = ResNetSpec()
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
