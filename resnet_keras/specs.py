"""The spec of a network: what its layers compute, and where its blocks stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from resnet_keras.architectures import (
    CIFAR_STEP,
    DEPTHS,
    EXPANSION,
    STEMS,
    Activation,
    Block,
    ConvRole,
    Normalization,
    Pooling,
    PoolPadding,
    Shortcut,
    Stem,
    StrideBlock,
    Variant,
)
from resnet_keras.spec_checks import (
    CHOICES,
    check_choice,
    check_groups,
    check_head,
    check_padded_shortcut,
    check_stage_blocks,
    check_width,
    checked_block,
    checked_last_stage,
    ordered_roles,
)


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
    stride_block: StrideBlock = "first"
    stem_norm: bool = False
    pooling: Pooling = "avg"
    head: tuple[int, ...] = ()
    output_stride: int = 32
    stage_blocks: tuple[int, ...] = ()
    last_stage: int | None = None
    head_normalization: Normalization = "none"
    head_activation: Activation = "relu"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        # JSON has lists where the spec, which is hashed, has tuples.
        self._set("head", tuple(self.head))
        self._set("stage_blocks", tuple(self.stage_blocks))
        self._set("conv_bias", ordered_roles(self.conv_bias))
        self._set("block", checked_block(self.depth, self.stem, self.block))
        check_width(self.width)
        check_head(self.head)
        check_groups(
            self.depth, self.kind, groups=self.groups, width_per_group=self.width_per_group
        )
        stages = len(self.widths)
        check_stage_blocks(self.depth, self.kind, self.stage_blocks, stages=stages)
        self._set("last_stage", checked_last_stage(self.last_stage, self.stem, stages=stages))
        check_padded_shortcut(
            self.shortcut, channels=self.widths[0] * self.expansion, stem=self.stem_filters,
            width=self.width,
        )  # fmt: skip

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

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
