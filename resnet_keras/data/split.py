"""Seeded, stratified splits that depend on nothing but names, classes and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_keras.errors import DataError


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Shares out `total` over groups in proportion to their sizes, by largest remainders.

    Args:
        sizes: Number of members of each group; together at least `total`.
        total: Number to share out.

    Returns:
        A number for each group; they add up to `total`.
    """
    exact = [total * size / sum(sizes) for size in sizes]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda group: counts[group] - exact[group])
    for group in by_remainder[: total - sum(counts)]:
        counts[group] += 1
    return counts


def split_off(
    names: Sequence[str], strata: np.ndarray, counts: Mapping[Any, Sequence[int]], *, seed: int
) -> np.ndarray:
    """Draws pictures out of each stratum.

    Args:
        names: Of each picture; their order does not matter.
        strata: Group of each picture, `(n,)`.
        counts: For each group the number of pictures that go to part 1, part 2, ...
        seed: Of the draw.

    Returns:
        The part of each picture, `(n,)`: 0 for those that stay.
    """
    rng = np.random.default_rng(seed)
    order = np.array(sorted(range(len(names)), key=lambda index: names[index]), dtype=np.intp)
    parts = np.zeros(len(names), np.int32)
    for stratum in sorted(counts, key=str):
        members = rng.permutation(order[strata[order] == stratum])
        ends = np.cumsum(counts[stratum])
        for number, drawn in enumerate(np.split(members, ends)[:-1], start=1):
            parts[drawn] = number
    return parts


def class_counts(
    sizes: Sequence[int], shares: Sequence[float], class_names: Sequence[str]
) -> dict[int, list[int]]:
    """Returns how many pictures of each class go to each part that is split off.

    Args:
        sizes: Number of pictures of each class.
        shares: Share of all pictures for each part, in (0, 1), together below 1.
        class_names: One name a class.

    Returns:
        For each class one number a part, at least 1; at least one picture stays.

    Raises:
        DataError: If a class has fewer pictures than there are parts.
    """
    needed = len(shares) + 1
    scarce = [
        f"{name!r} has {size}"
        for name, size in zip(class_names, sizes, strict=True)
        if size < needed
    ]
    if scarce:
        raise DataError(
            f"Every class needs a picture in each of the {needed} parts, but {', '.join(scarce)}; "
            "add pictures, or ask for fewer parts with `validation=0` or `test=0`."
        )
    columns = [apportion(sizes, round(share * sum(sizes))) for share in shares]
    return {
        label: _at_least_one([column[label] for column in columns], size)
        for label, size in enumerate(sizes)
    }


def _at_least_one(counts: Sequence[int], size: int) -> list[int]:
    fixed: list[int] = []
    for done, count in enumerate(counts):
        # One picture has to be left for the training part and for each part still to come.
        left = size - sum(fixed) - (len(counts) - done)
        fixed.append(min(max(1, count), left))
    return fixed
