"""Name maps: what each of our variables is made of, with every tensor of both sides accounted for.

A layout turns a spec into a table; `apply` uses up a file by it, completely or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.files import listed
from resnet_keras.weights.layouts.plan import Shape

HEAD = "logits/"
# Rows that are no variables but part of the recipe.
MEAN, STD = "recipe/mean", "recipe/std"


@dataclasses.dataclass(frozen=True)
class Row:
    """Where one of our variables comes from.

    Args:
        sources: Names of the file's tensors that it uses up.
        shape: Shape of the variable, None where any size is right.
        transform: What makes the variable of those tensors.
    """

    sources: tuple[str, ...]
    shape: Shape
    transform: Callable[..., np.ndarray] = np.asarray


Table = dict[str, Row]


def difference(table: Table, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Returns the names that a table needs and the file lacks, and those that it does not need.

    A file without any tensor of the head lacks nothing: it has the features alone.
    """
    present = set(names)
    head = {
        source for ours, row in table.items() if ours.startswith(HEAD) for source in row.sources
    }
    needed = {source for row in table.values() for source in row.sources}
    if not head & present:
        needed -= head
    return needed - present, present - needed


def apply(
    table: Table, tensors: Mapping[str, np.ndarray], *, network: str, label: str
) -> dict[str, np.ndarray]:
    """Returns our variables, made of exactly the tensors of a file.

    Args:
        table: The name map.
        tensors: The file's tensors by its own names.
        network: What the table is of, for messages.
        label: What the tensors are from, for messages.

    Raises:
        WeightsError: If a tensor is missing, left over, or of another shape.
    """
    check_names(table, tensors, network=network, label=label)
    ours = variables(table, tensors)
    if wrong := misfits(table, ours):
        texts = [_misfit(name, table[name], tensors) for name in wrong]
        raise WeightsError(
            f"{label} does not fit {network}: {listed(texts, limit=3)}; name weights of the right "
            "network with `like`."
        )
    return {name: np.ascontiguousarray(array, np.float32) for name, array in ours.items()}


def variables(table: Table, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    """Returns our variables as far as there are tensors for them, None where those do not fit."""
    rows = {name: row for name, row in table.items() if set(row.sources) <= tensors.keys()}
    return {name: made(row, tensors) for name, row in rows.items()}


def misfits(table: Table, ours: Mapping[str, np.ndarray | None]) -> list[str]:
    """Returns the names of the variables that have not the shape that they should have."""
    return [name for name, array in ours.items() if not _fits(array, table[name].shape)]


def check_names(
    table: Table, tensors: Mapping[str, np.ndarray], *, network: str, label: str
) -> None:
    """Refuses a file that lacks a tensor of the table, or holds one that it does not need.

    Raises:
        WeightsError: It lists both.
    """
    missing, extra = difference(table, tensors)
    parts = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("left over", extra))
        if names
    ]
    if parts:
        raise WeightsError(
            f"{label} does not hold exactly the tensors of {network}: {'; '.join(parts)}; name "
            "weights of the right network with `like`."
        )


def made(row: Row, tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Returns the variable, or None if the tensors have too few or too many axes for it."""
    try:
        return row.transform(*(tensors[name] for name in row.sources))
    except (ValueError, IndexError):
        return None


def _fits(array: np.ndarray | None, wanted: Shape) -> bool:
    if array is None or array.ndim != len(wanted):
        return False
    sizes = zip(array.shape, wanted, strict=True)
    return all(size == known or (known is None and size > 0) for size, known in sizes)


def _misfit(name: str, row: Row, tensors: Mapping[str, np.ndarray]) -> str:
    shapes = " and ".join(f"{source} {tensors[source].shape}" for source in row.sources)
    return f"{shapes} should give {name} {_shown(row.shape)}"


def _shown(shape: Shape) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
