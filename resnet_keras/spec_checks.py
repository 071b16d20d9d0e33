"""What the fields of a spec must be, alone and together; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from resnet_keras.architectures import (
    CIFAR_STEP,
    DEPTHS,
    OUTPUT_STRIDES,
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

# Where a field may hold a few values alone: these, whatever the others hold.
CHOICES: dict[str, tuple[object, ...]] = {
    "variant": get_args(Variant),
    "stem": get_args(Stem),
    "shortcut": get_args(Shortcut),
    "pooling": get_args(Pooling),
    "pool_padding": get_args(PoolPadding),
    "stride_block": get_args(StrideBlock),
    "output_stride": OUTPUT_STRIDES,
    "head_normalization": get_args(Normalization),
    "head_activation": get_args(Activation),
}


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises `ValueError` if a field holds none of its choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def check_count(name: str, value: object) -> None:
    """Raises `ValueError` if a field does not hold a positive integer."""
    if not _is_count(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_head(units: Sequence[object]) -> None:
    """Raises `ValueError` if a hidden layer has no units."""
    if not all(map(_is_count, units)):
        raise ValueError(f"`head` must hold positive integers. Received: head={units!r}")


def check_width(width: float) -> None:
    """Raises `ValueError` if the multiplier of the widths is out of range."""
    if not 0 < width <= 16:
        raise ValueError(f"`width` must lie in (0, 16]. Received: width={width!r}")


def ordered_roles(roles: Sequence[ConvRole]) -> tuple[ConvRole, ...]:
    """Returns the convolutions that have a bias, in one order whatever theirs.

    Raises:
        ValueError: If there is no such convolution.
    """
    for role in roles:
        check_choice("conv_bias", role, get_args(ConvRole))
    return tuple(role for role in get_args(ConvRole) if role in roles)


def checked_block(depth: int, stem: Stem, wanted: Block | None) -> Block:
    """Returns the kind of block that a depth has.

    Raises:
        ValueError: If there is no such depth, or it cannot have the kind that is wanted.
    """
    if wanted is not None:
        check_choice("block", wanted, get_args(Block))
    fitting = _fitting_blocks(depth, stem)
    if wanted is not None and wanted not in fitting:
        raise ValueError(
            f"`block` must be {' or '.join(map(repr, fitting))} at depth {depth} with the "
            f"{stem} stem. Received: block={wanted!r}"
        )
    return wanted or fitting[0]


def _fitting_blocks(depth: int, stem: Stem) -> list[Block]:
    if stem == "imagenet":
        check_choice("depth", depth, tuple(DEPTHS))
        return [DEPTHS[depth][0]]
    fitting: list[Block] = [
        kind
        for kind, step in CIFAR_STEP.items()
        if isinstance(depth, int) and depth > 2 and (depth - 2) % step == 0
    ]
    if not fitting:
        raise ValueError(
            "`depth` of a CIFAR network must be 6n + 2 (basic blocks) or 9n + 2 (bottlenecks). "
            f"Received: depth={depth!r}"
        )
    return fitting


def check_groups(depth: int, block: Block, *, groups: int, width_per_group: int) -> None:
    """Raises `ValueError` if blocks of this kind cannot have these groups."""
    check_count("groups", groups)
    check_count("width_per_group", width_per_group)
    if block == "basic" and (groups, width_per_group) != (1, 64):
        raise ValueError(
            "`groups` and `width_per_group` belong to bottleneck blocks, and depth "
            f"{depth} has basic ones: `width` widens those. Received: "
            f"groups={groups}, width_per_group={width_per_group}"
        )


def check_stage_blocks(depth: int, block: Block, counts: Sequence[int], *, stages: int) -> None:
    """Raises `ValueError` if the blocks of the stages do not make up the depth."""
    layers = 2 if block == "basic" else 3
    if counts and (len(counts) != stages or layers * sum(counts) + 2 != depth):
        raise ValueError(
            f"`stage_blocks` must give {stages} stages the {depth - 2} layers "
            f"of depth {depth}, {layers} a block. Received: stage_blocks={counts!r}"
        )


def checked_last_stage(wanted: int | None, stem: Stem, *, stages: int) -> int:
    """Returns the number of the stage that the backbone ends with.

    Raises:
        ValueError: If there is no such stage.
    """
    last = stages if wanted is None else wanted
    if not _is_count(last) or last > stages:
        raise ValueError(
            f"`last_stage` must be an integer from 1 to {stages} with the {stem} stem. "
            f"Received: last_stage={last!r}"
        )
    return last


def check_padded_shortcut(shortcut: Shortcut, *, channels: int, stem: int, width: float) -> None:
    """Raises `ValueError` if zero channels cannot make the shortcut of the first stage.

    Args:
        shortcut: The kind of shortcut.
        channels: Output channels of the first stage.
        stem: Those of the stem.
        width: The multiplier that makes them so few.
    """
    if shortcut == "A" and channels < stem:
        raise ValueError(
            "`shortcut='A'` can only add channels, and the stages must not be narrower than "
            f"the stem's {stem} channels. Received: width={width}"
        )
