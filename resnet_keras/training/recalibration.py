"""Batch norm that begins to train where it stood: with the statistics of one's own pictures."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from resnet_keras.batch_norm import BatchNorm, counting_layers
from resnet_keras.distribution.compiled import compiled
from resnet_keras.distribution.workers import Workers
from resnet_keras.layers import functional, is_head

# A channel of 7 x 7 positions, the fewest at 224 pixels, has 25,000 values in so many pictures.
PICTURES = 512
BATCH = 32
# From a text and a number of pictures, the block in which they are counted.
Counting = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Training pictures, and the network that sees them.

    Args:
        model: The whole network, its trainability set.
        start: Its tensor where the pictures come in: all norms that train lie behind it.
        inputs: A `keras.Input` for what `read` returns.
        features: What stands there, computed from the inputs.
        read: Returns the inputs of some pictures by their numbers, `(k, ...)`.
        own: Which pictures this process has, bool `(pictures,)`; each is one process's own.
    """

    model: keras.Model
    start: Any
    inputs: Any
    features: Any
    read: Callable[[np.ndarray], np.ndarray]
    own: np.ndarray


def recalibrate(sample: Sample, workers: Workers, *, counting: Counting) -> None:
    """Gives norms that are about to train the statistics of the pictures, and changes no output.

    A pretrained network has those of the pictures that it was trained with. Trained on others,
    its norms would turn from the old statistics to those of a batch at the first step: the loss
    begins many times as high as the head left it, and what is validated lags behind, by a hundred
    steps and more. So the moving statistics become those of 512 pictures of the training part
    (Wu & Johnson 2021, arXiv 2105.07576, section 3), and gamma and beta what leaves the network
    in inference mode as it was (here alone).

    Norms of the head, and those whose statistics never moved, stay as they are.

    Args:
        sample: The pictures and the network.
        workers: The processes of the run, which all call this.
        counting: Shows how many pictures are done; may raise to stop.
    """
    norms = [norm for norm in counting_layers(sample.model) if _has_statistics(norm)]
    if not norms:
        return
    # Summed in float64, and then rounded: so the number of processes changes nothing.
    own = _sums(sample, norms, counting).tobytes()
    sums = np.sum([np.frombuffer(part) for part in workers.gather(own)], axis=0)
    means, squares = np.split(sums[1:] / sums[0], 2)
    moments = np.stack([means, np.maximum(squares - means**2, 0.0)])
    ends = np.cumsum([norm.gamma.shape[0] for norm in norms])
    for norm, (mean, variance) in zip(norms, np.split(moments, ends[:-1], axis=1), strict=True):
        _rebase(norm, mean, variance)


def _has_statistics(norm: BatchNorm) -> bool:
    moved = np.any(np.asarray(norm.moving_mean) != 0) or np.any(
        np.asarray(norm.moving_variance) != 1
    )
    return bool(moved and norm.scale and norm.center and not is_head(norm.name))


def _sums(sample: Sample, norms: Sequence[BatchNorm], counting: Counting) -> np.ndarray:
    """Returns, over the own pictures, their number and the sums of mean and square, float64."""
    whole = functional(sample.inputs, _seen(sample, norms))
    moments = compiled(
        lambda values: _moments(whole(values, training=False)),
        tf.TensorSpec(sample.inputs.shape, sample.inputs.dtype),
        variables=whole.variables,
    )
    total = np.zeros(1 + 2 * sum(norm.gamma.shape[0] for norm in norms))
    chosen = _chosen(sample.own)
    with counting("statistics of batch norm", len(chosen)) as count:
        for start in range(0, len(chosen), BATCH):
            pictures = chosen[start : start + BATCH]
            rows = np.asarray(moments(sample.read(pictures)), np.float64)
            means, variances = np.split(rows, 2, axis=1)
            total[0] += len(rows)
            total[1:] += np.concatenate([means, variances + means**2], axis=1).sum(axis=0)
            count(len(rows))
    return total


def _seen(sample: Sample, norms: Sequence[BatchNorm]) -> list[Any]:
    """Returns what each norm sees, computed from the inputs of the sample."""
    behind = [norm.input for norm in norms if norm.input is not sample.start]
    found = iter(tree.flatten(functional(sample.start, behind)(sample.features)))
    # With pre-activation a stage begins with a norm.
    return [sample.features if norm.input is sample.start else next(found) for norm in norms]


def _moments(features: Any) -> Any:
    """Returns a row for each picture: means of the channels of all norms, then variances.

    They are squared in float64 later: in float32 a mean far from 0 would leave a variance no digit.
    """
    found = [ops.moments(ops.cast(each, "float32"), axes=(1, 2)) for each in tree.flatten(features)]
    means, variances = zip(*found, strict=True)
    return ops.concatenate([*means, *variances], axis=-1)


def _chosen(own: np.ndarray) -> np.ndarray:
    """Returns the numbers of this process's own among pictures evenly spread over all."""
    places = np.linspace(0, len(own) - 1, min(PICTURES, len(own))).round().astype(int)
    found: np.ndarray = places[own[places]]
    return found


def _rebase(norm: BatchNorm, mean: np.ndarray, variance: np.ndarray) -> None:
    """Gives a norm other statistics, and the gamma and beta with which it does what it did."""
    gamma, beta, old_mean, old_variance = (each.astype(np.float64) for each in norm.get_weights())
    deviation = np.sqrt(old_variance + norm.epsilon)
    beta = beta + gamma * (mean - old_mean) / deviation
    gamma = gamma * np.sqrt(variance + norm.epsilon) / deviation
    norm.set_weights([gamma, beta, mean, variance])
