"""Weights made to fit another network: its input channels, its classes, its bias-free graph."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.weights.files import Weights, listed, near

Classes = Sequence[str] | Mapping[str, str | Sequence[str]]

_FIRST_KERNELS = ("stem_conv/kernel", "stem_1_conv/kernel")
_STAGE = re.compile(r"stage(\d)")
_KERNEL, _BIAS = "logits/kernel", "logits/bias"
_logger = logging.getLogger("resnet_keras")


def first_kernel(tensors: Mapping[str, object]) -> str:
    """Returns the name of the kernel that sees the picture."""
    return next(name for name in _FIRST_KERNELS if name in tensors)


def adapt_channels(weights: Weights, channels: int) -> Weights:
    """Returns weights whose first convolution takes another number of input channels.

    For one channel the kernels are summed, so that a grey picture gives about what its three
    equal colours gave; for more they are repeated in turn and scaled by the ratio of the
    numbers, so that the features keep their size. Mean and standard deviation follow.
    """
    name = first_kernel(weights.tensors)
    kernel = weights.tensors[name]
    known = kernel.shape[2]
    if known == channels:
        return weights
    recipe = weights.record.recipe
    if channels == 1:
        kernel = kernel.sum(axis=2, keepdims=True)
        mean, std = ((float(np.mean(values)),) for values in (recipe.mean, recipe.std))
    else:
        turns = [channel % known for channel in range(channels)]
        kernel = kernel[:, :, turns] * np.float32(known / channels)
        mean, std = (tuple(values[turn] for turn in turns) for values in (recipe.mean, recipe.std))
    _logger.warning(
        "%r takes %d input channels and the model %d: the first kernels were %s",
        weights.record.name,
        known,
        channels,
        "summed" if channels == 1 else "repeated in turn",
    )
    recipe = dataclasses.replace(recipe, mean=mean, std=std)
    return Weights(
        dataclasses.replace(weights.record, recipe=recipe), {**weights.tensors, name: kernel}
    )


def leave_out_stages(weights: Weights, last_stage: int) -> Weights:
    """Returns weights without the stages behind the one that the model ends with.

    Pre-activation networks end with a norm. Behind an earlier stage it is the one with which the
    next stage began, as both see the same features.
    """
    record, end = weights.record, weights.record.spec.end
    if last_stage >= end:
        return weights
    gone = [f"stage{number}" for number in range(last_stage + 1, end + 1)]
    tensors = {name: tensor for name, tensor in weights.tensors.items() if _stage(name) not in gone}
    if record.spec.preactivation:
        entry, norm = f"{gone[0]}_block1_preact_bn/", f"stage{last_stage}_norm_bn/"
        for name in [name for name in weights.tensors if name.startswith(entry)]:
            tensors[name.replace(entry, norm)] = weights.tensors[name]
    _logger.warning(
        "%s of %r %s left out: the model ends at stage%d",
        " and ".join(filter(None, (", ".join(gone[:-1]), gone[-1]))),
        record.name,
        "are" if len(gone) > 1 else "is",
        last_stage,
    )
    return Weights(record, tensors)


def _stage(name: str) -> str:
    found = _STAGE.match(name)
    return found.group() if found else ""


def absorb_bias(weights: Weights, wanted: set[str]) -> Weights:
    """Returns weights without the biases of convolutions that the model does not have.

    Batch norm subtracts its mean from what the convolution gives: a mean that is smaller by the
    bias gives the same.

    Args:
        weights: The weights.
        wanted: Names of the variables of the model.
    """
    tensors = dict(weights.tensors)
    for name in [name for name in tensors if name.endswith("_conv/bias") and name not in wanted]:
        mean = name.replace("_conv/bias", "_bn/moving_mean")
        if mean in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(name)
    return Weights(weights.record, tensors)


def select_classes(weights: Weights, classes: Classes) -> Weights:
    """Returns weights whose head has only some of its classes, or unions of them.

    Args:
        weights: The weights, with a head and the names of their classes.
        classes: The classes to keep, in their new order; or new names and for each the class, or
            the classes whose rows of the head are averaged.

    Raises:
        WeightsError: If the weights have no head or no names, or if a class is not among them.
    """
    if _KERNEL not in weights.tensors or not weights.record.class_names:
        raise WeightsError(
            f"`keep_classes` needs weights with a head and names of its classes, and "
            f"{weights.record.name!r} has none: leave it out for a new head."
        )
    groups = classes if isinstance(classes, Mapping) else {name: name for name in classes}
    columns = [_columns(weights, [old] if isinstance(old, str) else old) for old in groups.values()]
    kernel, bias = weights.tensors[_KERNEL], weights.tensors[_BIAS]
    tensors = {
        **weights.tensors,
        _KERNEL: np.stack([kernel[:, own].mean(axis=1) for own in columns], axis=1),
        _BIAS: np.stack([bias[own].mean() for own in columns]),
    }
    return Weights(dataclasses.replace(weights.record, class_names=tuple(groups)), tensors)


def _columns(weights: Weights, names: Sequence[str]) -> list[int]:
    known = weights.record.class_names
    if unknown := [name for name in names if name not in known]:
        raise WeightsError(
            f"`keep_classes` must name classes of {weights.record.name!r}, which lacks "
            f"{listed(map(repr, unknown))}.{near(unknown[0], known)}"
        )
    return [known.index(name) for name in names]
