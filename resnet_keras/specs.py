"""The architecture table and the spec of a network; standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args

Block = Literal["basic", "bottleneck"]
Variant = Literal["v1", "v1.5", "v2", "d", "v2d"]
Shortcut = Literal["A", "B", "stage", "C", "none"]
Stem = Literal["imagenet", "cifar"]
Pooling = Literal["avg", "max", "both"]
Normalization = Literal["none", "batch", "layer"]
Activation = Literal["relu", "gelu", "silu"]
ConvRole = Literal["stem", "shortcut", "inner", "last"]
PoolPadding = Literal["symmetric", "zeros", "same"]

# depth -> block and blocks per stage: He et al. 2015, arXiv 1512.03385, table 1; 200: He et al.
# 2016, arXiv 1603.05027, section 4.
DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# stem -> its filters, its stride, and the widths of the stages: table 1 and section 4.2.
STEMS: dict[Stem, tuple[int, int, tuple[int, ...]]] = {
    "imagenet": (64, 4, (64, 128, 256, 512)),
    "cifar": (16, 1, (16, 32, 64)),
}
EXPANSION: dict[Block, int] = {"basic": 1, "bottleneck": 4}
# Weighted layers that one block in each of the three CIFAR stages adds: 6n + 2 and 9n + 2.
CIFAR_STEP: dict[Block, int] = {"basic": 6, "bottleneck": 9}
OUTPUT_STRIDES = (32, 16, 8)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a block stands in the network.

    Args:
        stage: Number of its stage, from 1.
        number: Number within the stage, from 1.
        width: Channels inside the block, before `groups` and `width_per_group`.
        stride: Downsampling factor of the block, 1 or 2.
        entry_dilation: Dilation of the convolution that has the stride, or would have it.
        dilation: Dilation of the convolutions behind that one.
        depth_share: Share of the network's blocks up to and including this one, in (0, 1].
    """

    stage: int
    number: int
    width: int
    stride: int
    entry_dilation: int
    dilation: int
    depth_share: float

    @property
    def name(self) -> str:
        """Start of the names of the block's layers."""
        return f"stage{self.stage}_block{self.number}"

    @property
    def halves(self) -> bool:
        """Whether the block halves the size, or would without `output_stride`."""
        return self.stride > 1 or self.dilation > self.entry_dilation


@dataclasses.dataclass(frozen=True)
class ResNetSpec:
    """What the layers compute; two networks with equal specs have equal graphs.

    Args:
        depth: Number of weighted layers: a key of `DEPTHS`, or with the CIFAR stem 6n + 2
            (basic blocks) or 9n + 2 (bottlenecks).
        variant: The order of the layers in a block. "v1": a bottleneck has its stride on the
            first 1x1 convolution (the paper); "v1.5": on the 3x3 (torchvision and timm); "v2":
            batch norm and ReLU before each convolution (He et al. 2016, arXiv 1603.05027); "d":
            v1.5 with three 3x3 convolutions in the stem and an average pool before each
            projection that halves the size (He et al. 2018, arXiv 1812.01187); "v2d": both.
        width: Multiplier of the widths of the stages; the stem keeps its filters.
        pool_padding: Padding of the stem's max pool: "symmetric" (torch: what is padded never
            wins), "zeros" (symmetric, but a padded zero may win), or "same", which pads bottom
            and right only on even sizes (TensorFlow).
        bn_epsilon: What batch norm adds to the variance.
        block: "basic" or "bottleneck"; None takes that of `DEPTHS`, and with the CIFAR stem
            basic blocks where the depth is 6n + 2.
        stem: "imagenet" (7x7, stride 2, max pool; four stages) or "cifar" (3x3; three stages).
        shortcut: "A": identity, subsampled and padded with zero channels; "B": projection where
            the number of channels changes; "stage": also in the first block of each stage;
            "C": projection in every block; "none": a plain network. (Table 3 of the paper.)
        groups: Groups of the 3x3 convolutions of bottlenecks (Xie et al. 2016, arXiv 1611.05431).
        width_per_group: Channels of a group where the stage is 64 wide (ResNeXt, wide ResNet).
        conv_bias: The convolutions that have a bias: any of "stem", "shortcut", "inner" (those
            in a branch that others follow) and "last" (the last of a branch).
        stride_block: The block of a stage that halves the size: the "first", as in the paper, or
            the "last" of each stage but the last (the V2 networks of keras.applications).
        stem_norm: Whether batch norm and ReLU follow the stem of pre-activation networks.
        pooling: What the head sees of the features: "avg", "max", or "both" side by side.
        head: Units of the hidden layers between pooling and logits.
        output_stride: The features are at most this many times smaller than the picture: 32, 16
            or 8; strides beyond it become dilation (Chen et al. 2017, arXiv 1706.05587).
        stage_blocks: Blocks in each stage where `DEPTHS` has others for the depth; empty if not.
        last_stage: The stage that the backbone ends with, from 1; None for the last there is.
        head_normalization: What normalises the inputs of each dense layer of the head: "none",
            "batch" (Ioffe and Szegedy 2015, arXiv 1502.03167) or "layer" (Ba et al. 2016, arXiv
            1607.06450).
        head_activation: What follows the hidden layers: "relu", "gelu" or "silu" (Hendrycks and
            Gimpel 2016, arXiv 1606.08415).
    """

    depth: int = 50
    variant: Variant = "v1.5"
    width: float = 1.0
    pool_padding: PoolPadding = "symmetric"
    bn_epsilon: float = 1e-5
    block: Block | None = None
    stem: Stem = "imagenet"
    shortcut: Shortcut = "B"
    groups: int = 1
    width_per_group: int = 64
    conv_bias: tuple[ConvRole, ...] = ()
    stride_block: Literal["first", "last"] = "first"
    stem_norm: bool = False
    pooling: Pooling = "avg"
    head: tuple[int, ...] = ()
    output_stride: int = 32
    stage_blocks: tuple[int, ...] = ()
    last_stage: int | None = None
    head_normalization: Normalization = "none"
    head_activation: Activation = "relu"

    def __post_init__(self) -> None:
        _check_choice("variant", self.variant, get_args(Variant))
        _check_choice("stem", self.stem, get_args(Stem))
        _check_choice("shortcut", self.shortcut, get_args(Shortcut))
        _check_choice("pooling", self.pooling, get_args(Pooling))
        _check_choice("pool_padding", self.pool_padding, get_args(PoolPadding))
        _check_choice("stride_block", self.stride_block, ("first", "last"))
        _check_choice("output_stride", self.output_stride, OUTPUT_STRIDES)
        _check_choice("head_normalization", self.head_normalization, get_args(Normalization))
        _check_choice("head_activation", self.head_activation, get_args(Activation))
        # JSON has lists where the spec, which is hashed, has tuples.
        object.__setattr__(self, "head", tuple(self.head))
        object.__setattr__(self, "conv_bias", _ordered_roles(self.conv_bias))
        object.__setattr__(self, "block", _block(self.depth, self.stem, self.block))
        object.__setattr__(self, "stage_blocks", tuple(self.stage_blocks))
        if not 0 < self.width <= 16:
            raise ValueError(f"`width` must lie in (0, 16]. Received: width={self.width!r}")
        if not all(_is_count(units) for units in self.head):
            raise ValueError(f"`head` must hold positive integers. Received: head={self.head!r}")
        self._check_groups()
        self._check_stage_blocks()
        object.__setattr__(self, "last_stage", self._checked_last_stage())
        if self.shortcut == "A" and self.widths[0] * self.expansion < self.stem_filters:
            raise ValueError(
                "`shortcut='A'` can only add channels, and the stages must not be narrower than "
                f"the stem's {self.stem_filters} channels. Received: width={self.width}"
            )

    def _check_stage_blocks(self) -> None:
        layers = 2 if self.block == "basic" else 3
        counts = self.stage_blocks
        if counts and (len(counts) != len(self.widths) or layers * sum(counts) + 2 != self.depth):
            raise ValueError(
                f"`stage_blocks` must give {len(self.widths)} stages the {self.depth - 2} layers "
                f"of depth {self.depth}, {layers} a block. Received: stage_blocks={counts!r}"
            )

    def _checked_last_stage(self) -> int:
        stages = len(self.widths)
        wanted = stages if self.last_stage is None else self.last_stage
        if not _is_count(wanted) or wanted > stages:
            raise ValueError(
                f"`last_stage` must be an integer from 1 to {stages} with the {self.stem} stem. "
                f"Received: last_stage={wanted!r}"
            )
        return wanted

    def _check_groups(self) -> None:
        for name in ("groups", "width_per_group"):
            if not _is_count(getattr(self, name)):
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {getattr(self, name)!r}"
                )
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                "`groups` and `width_per_group` belong to bottleneck blocks, and depth "
                f"{self.depth} has basic ones: `width` widens those. Received: "
                f"groups={self.groups}, width_per_group={self.width_per_group}"
            )

    @property
    def title(self) -> str:
        """What people call the network, such as "ResNeXt-50 32x4d v1.5"."""
        if self.groups > 1:
            name = f"ResNeXt-{self.depth} {self.groups}x{self.width_per_group}d"
        elif self.width_per_group != 64:
            name = f"Wide ResNet-{self.depth}-{self.width_per_group / 64:g}"
        else:
            name = f"{'Plain' if self.shortcut == 'none' else 'ResNet'}-{self.depth}"
        stem = " for CIFAR" if self.stem == "cifar" else ""
        width = "" if self.width == 1 else f", width {self.width:g}"
        end = "" if self.end == len(self.widths) else f", through stage{self.end}"
        return f"{name} {self.variant}{stem}{width}{end}"

    @property
    def end(self) -> int:
        """Number of the stage that the backbone ends with."""
        assert self.last_stage is not None
        return self.last_stage

    @property
    def head_design(self) -> tuple[object, ...]:
        """All that decides what the weights of a head mean, but for the classes."""
        activation = self.head_activation if self.head else None
        return self.end, self.pooling, self.head, self.head_normalization, activation

    @property
    def preactivation(self) -> bool:
        """Whether batch norm and ReLU come before each convolution."""
        return self.variant in ("v2", "v2d")

    @property
    def deep_stem(self) -> bool:
        """Whether the stem has three 3x3 convolutions, and projections an average pool."""
        return self.variant in ("d", "v2d")

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks in each stage, those beyond `last_stage` included."""
        if self.stage_blocks:
            return self.stage_blocks
        if self.stem == "imagenet":
            return DEPTHS[self.depth][1]
        return 3 * ((self.depth - 2) // CIFAR_STEP[self.kind],)

    @property
    def kind(self) -> Block:
        """Kind of block: "basic" or "bottleneck"."""
        assert self.block is not None
        return self.block

    @property
    def stem_filters(self) -> int:
        """Output channels of the stem."""
        return STEMS[self.stem][0]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, before `groups`, `width_per_group` and the expansion."""
        return tuple(max(1, round(width * self.width)) for width in STEMS[self.stem][2])

    @property
    def expansion(self) -> int:
        """Output channels of a block over its width."""
        return EXPANSION[self.kind]

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture per step of the output of each stage through `last_stage`."""
        stride, ends = STEMS[self.stem][1], {}
        for place in self.places():
            stride *= place.stride
            ends[place.stage] = stride
        return tuple(ends.values())

    def inner_width(self, width: int) -> int:
        """Returns the channels of the 3x3 convolution of a bottleneck whose stage is so wide."""
        return max(1, int(width * self.width_per_group / 64)) * self.groups

    def projects(self, place: Place, *, changes: bool) -> bool:
        """Returns whether the shortcut of a block is a projection.

        Args:
            place: Where the block stands.
            changes: Whether the block changes the number of channels.
        """
        return {
            "A": False,
            "B": changes,
            "stage": changes or place.number == 1,
            "C": True,
            "none": False,
        }[self.shortcut]

    def places(self) -> Iterator[Place]:
        """Yields the blocks in their order, with what `output_stride` makes of their strides.

        Those of stages beyond `last_stage` are left out.
        """
        stride, dilation, done = STEMS[self.stem][1], 1, 0
        kept = self.blocks[: self.end]
        for stage, (count, width) in enumerate(zip(kept, self.widths, strict=False), 1):
            halving = self._halving_block(stage, count)
            for number in range(1, count + 1):
                done += 1
                step = 2 if number == halving else 1
                entry = dilation
                if stride * step > self.output_stride:
                    dilation, step = dilation * step, 1
                stride *= step
                share = done / sum(kept)
                yield Place(stage, number, width, step, entry, dilation, share)

    def _halving_block(self, stage: int, count: int) -> int:
        """Returns the number of the block of a stage that halves the size, 0 if none does."""
        if self.stride_block == "first":
            return 1 if stage > 1 else 0
        return count if stage < len(self.blocks) else 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as a dictionary that JSON can hold."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _ordered_roles(roles: tuple[ConvRole, ...]) -> tuple[ConvRole, ...]:
    for role in roles:
        _check_choice("conv_bias", role, get_args(ConvRole))
    return tuple(role for role in get_args(ConvRole) if role in roles)


def _block(depth: int, stem: Stem, wanted: Block | None) -> Block:
    """Returns the kind of block that a depth has, after checking that there is such a depth."""
    if wanted is not None:
        _check_choice("block", wanted, get_args(Block))
    if stem == "imagenet":
        _check_choice("depth", depth, tuple(DEPTHS))
        fitting: list[Block] = [DEPTHS[depth][0]]
    else:
        fitting = [
            kind
            for kind, step in CIFAR_STEP.items()
            if isinstance(depth, int) and depth > 2 and (depth - 2) % step == 0
        ]
    if not fitting:
        raise ValueError(
            "`depth` of a CIFAR network must be 6n + 2 (basic blocks) or 9n + 2 (bottlenecks). "
            f"Received: depth={depth!r}"
        )
    if wanted is not None and wanted not in fitting:
        raise ValueError(
            f"`block` must be {' or '.join(map(repr, fitting))} at depth {depth} with the "
            f"{stem} stem. Received: block={wanted!r}"
        )
    return wanted or fitting[0]
