"""From a file's tensors to ours: which network they are of, and each of them in its place."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.records import Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.adapt import first_kernel
from resnet_keras.weights.entries import Layout
from resnet_keras.weights.files import Weights
from resnet_keras.weights.layouts import LAYOUTS
from resnet_keras.weights.layouts.table import (
    MEAN,
    STD,
    Table,
    apply,
    check_names,
    difference,
    made,
    misfits,
    variables,
)


def infer_spec(tensors: Mapping[str, np.ndarray], layout: Layout, *, label: str) -> ResNetSpec:
    """Returns the network that names and shapes are of.

    Where the stride of a bottleneck lies, and what batch norm adds to the variance, follow from
    the layout: no file shows them.

    Args:
        tensors: Arrays by the file's own names.
        layout: Their layout.
        label: What they are from, for messages.

    Raises:
        WeightsError: If they are of no known network; it says how the nearest one differs.
    """
    rules = LAYOUTS[layout]
    tidied = rules.tidy(tensors)
    specs = [_widened(spec, rules.table(spec, tidied), tidied) for spec in rules.candidates()]
    tables = {spec: rules.table(spec, tidied) for spec in specs}
    distances = {spec: sum(map(len, difference(tables[spec], tidied))) for spec in specs}
    nearest = [spec for spec in specs if distances[spec] == min(distances.values())]
    check_names(tables[nearest[0]], tidied, network=nearest[0].title, label=label)
    # Numbered names can fit two networks, whose shapes differ.
    others = [spec for spec in nearest[1:] if _has_shapes(tables[spec], tidied)]
    return others[0] if others else nearest[0]


def _has_shapes(table: Table, tensors: Mapping[str, np.ndarray]) -> bool:
    return not misfits(table, variables(table, tensors))


def convert(
    tensors: Mapping[str, np.ndarray],
    layout: Layout,
    record: Record,
    *,
    bgr: bool,
    label: str,
) -> Weights:
    """Returns the weights of a file under our names, every tensor accounted for.

    Args:
        tensors: Arrays by the file's own names.
        layout: Their layout.
        record: What they are; where the file itself prepares its pixels, its mean and standard
            deviation replace those of the recipe.
        bgr: Whether the file wants blue, green, red; the first kernel is then turned round.
        label: What they are from, for messages.

    Raises:
        WeightsError: If a tensor is missing, left over, or of another shape.
    """
    rules = LAYOUTS[layout]
    tidied = rules.tidy(tensors)
    ours = apply(rules.table(record.spec, tidied), tidied, network=record.spec.title, label=label)
    if MEAN in ours:
        record = _with_statistics(record, ours, label)
    kernel = first_kernel(ours)
    record = _with_channels(record, ours[kernel].shape[2])
    if bgr:
        ours[kernel] = np.ascontiguousarray(ours[kernel][:, :, ::-1])
    return with_record(ours, record)


def with_record(tensors: dict[str, np.ndarray], record: Record) -> Weights:
    """Returns weights with a record, without its names of classes where those are not as many."""
    weights = Weights(record, tensors)
    if weights.num_classes == len(record.class_names):
        return weights
    return Weights(dataclasses.replace(record, class_names=()), tensors)


def _with_channels(record: Record, channels: int) -> Record:
    """Gives inputs that are not the three colours the colours' averaged statistics."""
    recipe = record.recipe
    if channels == len(recipe.mean):
        return record
    mean, std = (float(np.mean(values)) for values in (recipe.mean, recipe.std))
    recipe = dataclasses.replace(recipe, mean=(mean,) * channels, std=(std,) * channels)
    return dataclasses.replace(record, recipe=recipe)


def _widened(spec: ResNetSpec, table: Table, tensors: Mapping[str, np.ndarray]) -> ResNetSpec:
    """Returns a spec with the widths of the kernels in the first block of a file.

    Args:
        spec: Depth, variant and block.
        table: Its name map.
        tensors: The file's tensors.
    """
    last = _kernel_shape(table, {"basic": "2", "bottleneck": "3"}[spec.kind], tensors)
    middle = _kernel_shape(table, "2", tensors)
    widths: dict[str, Any] = {"width": last[-1] / spec.expansion / 64} if last else {}
    if last and middle and spec.kind == "bottleneck":
        groups = max(1, middle[-1] // middle[-2])
        per_group = round(middle[-1] / groups / widths["width"])
        widths |= {"groups": groups, "width_per_group": per_group}
    with contextlib.suppress(ValueError):
        return dataclasses.replace(spec, **widths)
    return spec


def _kernel_shape(
    table: Table, number: str, tensors: Mapping[str, np.ndarray]
) -> tuple[int, ...] | None:
    """Returns the shape of a kernel of the first block as we have it, None if it is none."""
    row = table[f"stage1_block1_{number}_conv/kernel"]
    kernel = made(row, tensors) if set(row.sources) <= tensors.keys() else None
    return kernel.shape if kernel is not None and kernel.ndim == 4 and kernel.size else None


def _with_statistics(record: Record, ours: dict[str, np.ndarray], label: str) -> Record:
    """Takes mean and standard deviation out of the tensors, and returns the record with them."""
    mean, std = ours.pop(MEAN), ours.pop(STD)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise WeightsError(
            f"{label} prepares its pixels with mean {mean} and standard deviation {std}, which "
            "must be finite and positive; fetch the file again."
        )
    recipe = dataclasses.replace(record.recipe, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return dataclasses.replace(record, recipe=recipe)
