"""The step that trains on TensorFlow, the same for one device and for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.batch_norm import counting_layers
from resnet_keras.batch_statistics import weighting
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.training.feed import Batch
from resnet_keras.training.weight_gradients import WeightGradients, noting_layers

# Takes a share, the number of pictures of the whole batch, and whether to stop; returns, over all
# replicas, the sum of the losses, the number of right answers, and that of requests to stop.
Step = Callable[[Batch, Any, Any], tf.Tensor]
# Takes the first step and the one behind the last, and whether to stop; returns such sums.
Span = Callable[[int, int, float], tf.Tensor]


def one_step(
    trainer: keras.Model, loss: Any, replicas: Replicas, *, groups: int | None, jit_compile: bool
) -> Callable[[Batch, int, float], tf.Tensor]:
    """Returns the function that trains on a batch, by a `Step` in each replica.

    Args:
        trainer: From the inputs to logits, with its optimizer.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.
        groups: Groups of pictures of a replica that gradients are summed by; None for no such.
        jit_compile: Whether XLA compiles the step.
    """
    work = train_step(trainer, loss, replicas, groups=groups)

    def shared(*values: Any) -> Any:
        with noting_layers(trainer):
            return replicas.run(work, *values)

    traced = tf.function(shared, autograph=False, jit_compile=jit_compile)
    any_size: dict[bool, Any] = {}

    def form(batch: Batch) -> Any:
        # XLA wants one size, and the shares of several devices have no signature.
        if jit_compile or replicas.local > 1:
            return traced
        weighted = batch.weights is not None
        if weighted not in any_size:
            any_size[weighted] = traced.get_concrete_function(*_signature(batch))
        return any_size[weighted]

    def run(batch: Batch, count: int, stop: float) -> tf.Tensor:
        totals = tf.constant(count, tf.float32), tf.constant(stop)
        return form(batch)(replicas.split(batch), *totals)

    return run


def _signature(batch: Batch) -> tuple[Any, tf.TensorSpec, tf.TensorSpec]:
    """Returns what a step takes, for batches of any size: the last one needs no trace of its own.

    A trace of ResNet-50 takes 5 s.
    """
    specs = tf.nest.map_structure(
        lambda values: None if values is None else tf.TensorSpec(
            (None, *values.shape[1:]), values.dtype
        ),
        batch,
    )  # fmt: skip
    return specs, tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.float32)


def many_steps(
    trainer: keras.Model,
    loss: Any,
    replicas: Replicas,
    *,
    groups: int | None,
    memory: tuple[np.ndarray, np.ndarray],
) -> Callable[[np.ndarray, np.ndarray], Span]:
    """Returns the function that prepares the steps of an epoch on features in memory.

    Args:
        trainer: From features to logits, with its optimizer.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.
        groups: Groups of pictures of a replica that gradients are summed by; None for no such.
        memory: The features, `(rows, ...)`, and the targets, `(pictures, classes)`.

    Returns:
        A function of the row and the picture, -1 for none, of what each replica here sees in each
        step, `(replicas, steps, replica_size, 2)`, and of the number of pictures of each step.
    """
    features, targets = map(tf.constant, memory)
    step = train_step(trainer, loss, replicas, groups=groups)

    def work(shares: tf.Tensor, number: tf.Tensor, others: tuple[Any, Any]) -> Any:
        counts, stop = others
        rows, pictures = tf.unstack(shares[0, number], axis=-1)
        inputs = tf.gather(features, tf.maximum(rows, 0))
        answers = tf.gather(targets, tf.maximum(pictures, 0))
        weights = tf.cast(pictures >= 0, tf.float32)
        return step(Batch((inputs,), answers, weights), counts[number], stop)

    def run_steps(shares: Any, span: tuple[Any, Any], others: tuple[Any, Any]) -> Any:
        first, last = span

        def one(number: tf.Tensor, totals: Any) -> tuple[Any, Any]:
            return number + 1, totals + replicas.run(work, shares, number, others)

        start = (first, tf.zeros(3))
        with noting_layers(trainer):
            return tf.while_loop(lambda n, _: n < last, one, start, parallel_iterations=1)[1]

    traced = tf.function(run_steps, autograph=False)

    def prepare(shares: np.ndarray, counts: np.ndarray) -> Span:
        placed, numbers = replicas.split(tf.constant(shares)), tf.constant(counts)

        def run(first: int, last: int, stop: float) -> tf.Tensor:
            span = (tf.constant(first), tf.constant(last))
            return traced(placed, span, (numbers, tf.constant(stop)))

        return run

    return prepare


def train_step(trainer: keras.Model, loss: Any, replicas: Replicas, *, groups: int | None) -> Step:
    """Returns the function that a replica runs: gradients, one update of the weights, totals.

    The gradient is that of the mean loss over all pictures of the batch, in whatever replica,
    so that a replica may have fewer of them than others, or none.

    Args:
        trainer: From the inputs to logits, with its optimizer.
        loss: Returns the loss of each picture.
        replicas: Those that share a batch.
        groups: Groups of pictures of a replica that gradients are summed by; None for no such.

    Returns:
        The step: it takes the share of the replica, whose `weights` are None if it has nothing
        that only fills it; the number of pictures in the whole batch; and 1 if a signal asked
        this process to stop, else 0.
    """
    optimizer = trainer.optimizer
    own_statistics = _own_statistics(trainer) if replicas.count > 1 else []

    def step(batch: Batch, count: Any, stop: Any) -> tf.Tensor:
        with tf.GradientTape() as tape, weighting(batch.weights):
            summed = WeightGradients(tape, groups)
            with summed.watching():
                logits = trainer(batch.network_inputs, training=True)
            losses = batch.weighted(loss(batch.targets, logits))
            objective = tf.reduce_sum(losses) / count
            if trainer.losses:
                objective += tf.add_n(trainer.losses) / replicas.count
            scaled = optimizer.scale_loss(objective)
        variables = trainer.trainable_variables
        gradients = replicas.gradients(summed.of(scaled, variables))
        optimizer.apply(gradients, variables)
        if own_statistics:
            _share_statistics(own_statistics, batch, replicas)
        right = tf.argmax(logits, axis=-1) == tf.argmax(batch.targets, axis=-1)
        right = batch.weighted(tf.cast(right, tf.float32))
        return replicas.total(tf.stack([tf.reduce_sum(losses), tf.reduce_sum(right), stop]))

    return step


def _own_statistics(trainer: keras.Model) -> list[Any]:
    """Returns the moving statistics that each replica moves by its own part of the batch."""
    return [
        variable
        for layer in counting_layers(trainer)
        if not layer.synchronized
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


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
