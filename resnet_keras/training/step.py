"""The step that trains, the same for one device and for many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.batch_statistics import weighting
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.layers import BatchNorm
from resnet_keras.training.feed import Batch

# Takes a share, the number of pictures of the whole batch, and whether to stop; returns, over all
# replicas, the sum of the losses, the number of right answers, and that of requests to stop.
Step = Callable[[Batch, Any, Any], tf.Tensor]


def train_step(trainer: keras.Model, loss: Any, replicas: Replicas) -> Step:
    """Returns the function that a replica runs: gradients, one update of the weights, totals.

    The gradient is that of the mean loss over all pictures of the batch, in whatever replica,
    so that a replica may have fewer of them than others, or none.

    Args:
        trainer: From the inputs to logits, compiled with its optimizer.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.

    Returns:
        The step: it takes the share of the replica, whose `weights` are None if it has nothing
        that only fills it; the number of pictures in the whole batch; and 1 if a signal asked
        this process to stop, else 0.
    """
    optimizer = trainer.optimizer
    own_statistics = _own_statistics(trainer) if replicas.count > 1 else []

    def step(batch: Batch, count: Any, stop: Any) -> tf.Tensor:
        with tf.GradientTape() as tape, weighting(batch.weights):
            logits = trainer(_only(batch.inputs), training=True)
            losses = _weighted(loss(batch.targets, logits), batch.weights)
            objective = tf.reduce_sum(losses) / count
            if trainer.losses:
                objective += tf.add_n(trainer.losses) / replicas.count
            scaled = optimizer.scale_loss(objective)
        variables = trainer.trainable_variables
        optimizer.apply(tape.gradient(scaled, variables), variables)
        if own_statistics:
            _share_statistics(own_statistics, batch, replicas)
        right = tf.argmax(logits, axis=-1) == tf.argmax(batch.targets, axis=-1)
        right = _weighted(tf.cast(right, tf.float32), batch.weights)
        return replicas.total(tf.stack([tf.reduce_sum(losses), tf.reduce_sum(right), stop]))

    return step


def _only(inputs: Sequence[Any]) -> Any:
    return inputs[0] if len(inputs) == 1 else list(inputs)


def _weighted(values: Any, weights: Any) -> Any:
    return values if weights is None else values * weights


def _own_statistics(trainer: keras.Model) -> list[Any]:
    """Returns the moving statistics that each replica moves by its own part of the batch."""
    return [
        variable
        for layer in _layers(trainer)
        if isinstance(layer, BatchNorm)
        and layer.trainable
        and not (layer.fixed_statistics or layer.synchronized)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def _layers(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _layers(layer)


def _share_statistics(variables: Sequence[Any], batch: Batch, replicas: Replicas) -> None:
    """Gives all replicas the mean of their statistics, by the number of their pictures."""
    weights = batch.weights
    count = tf.reduce_sum(tf.ones_like(batch.targets[:, 0]) if weights is None else weights)
    # One exchange: each takes a millisecond between processes, whatever it carries.
    line = tf.concat([variable.value for variable in variables] + [[1.0]], axis=0) * count
    line = replicas.total(line)
    means = tf.split(line[:-1] / line[-1], [variable.shape[0] for variable in variables])
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(mean)
