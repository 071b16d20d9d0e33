"""The step that trains on JAX: one program on the arrays of all devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp

from resnet_keras.batch_statistics import weighting, wide_dtype
from resnet_keras.distribution.compiled import shared_size
from resnet_keras.distribution.global_replica import GlobalReplica
from resnet_keras.training.feed import Batch
from resnet_keras.training.jax_gradients import is_on_cpu, summing_by_group

# The values of what trains, of all else in the network, and of the optimizer.
Values = tuple[list[Any], list[Any], list[Any]]
# Takes the values, a batch and the number of its pictures; returns the values behind the step, the
# sum of the losses, and the number of right answers.
Step = Callable[[Values, Batch, Any], tuple[Values, Any]]
# Takes the first step and the one behind the last, and whether to stop; returns the sums of
# losses and of right answers, and whether to stop.
Span = Callable[[int, int, float], np.ndarray]


def one_step(
    trainer: keras.Model,
    loss: Any,
    replica: GlobalReplica,
    *,
    groups: int | None,
    jit_compile: bool,
) -> Callable[[Batch, int, float], np.ndarray]:
    """Returns the function that trains on a batch.

    Args:
        trainer: From the inputs to logits, with its optimizer.
        loss: Returns the loss of each picture.
        replica: The devices that share a batch.
        groups: None: a step finds the groups of its pictures by itself.
        jit_compile: Whether XLA compiles the step, as it always does on JAX.
    """
    state = _State(trainer, train_step(trainer, loss), replica)

    def run(batch: Batch, count: int, stop: float) -> np.ndarray:
        pictures = len(batch.targets)
        fills = shared_size(pictures, replica.devices) > pictures
        if batch.weights is None and (fills or is_on_cpu(trainer)):
            batch = batch._replace(weights=np.ones(pictures, np.float32))
        totals = state.run(replica.split(batch), np.float32(count))
        return np.append(totals, stop)

    return run


def many_steps(
    trainer: keras.Model,
    loss: Any,
    replica: GlobalReplica,
    *,
    groups: int | None,
    memory: tuple[np.ndarray, np.ndarray],
) -> Callable[[np.ndarray, np.ndarray], Span]:
    """Returns the function that prepares the steps of an epoch on features in memory.

    Args:
        trainer: From features to logits, with its optimizer.
        loss: Returns the loss of each picture.
        replica: The devices that share a batch.
        groups: None: a step finds the groups of its pictures by itself.
        memory: The features, `(rows, ...)`, and the targets, `(pictures, classes)`.

    Returns:
        A function of the row and the picture, -1 for none, of all that is seen in each step,
        `(1, steps, batch, 2)`, and of the number of pictures of each step.
    """
    placed = tuple(map(replica.copied, memory))
    step = train_step(trainer, loss)

    def run_steps(
        values: Values, order: tuple[Any, Any], memory: tuple[Any, Any], /, *span: Any
    ) -> tuple[Values, Any]:
        (places, counts), (features, targets) = order, memory

        def one(number: Any, carried: tuple[Values, Any]) -> tuple[Values, Any]:
            values, totals = carried
            rows, pictures = places[:, number, 0], places[:, number, 1]
            weights = (pictures >= 0).astype(jnp.float32)
            chosen = features[jnp.maximum(rows, 0)], targets[jnp.maximum(pictures, 0)]
            batch = Batch((chosen[0],), chosen[1], weights)
            values, found = step(values, batch, counts[number])
            return values, totals + found

        found: tuple[Values, Any] = jax.lax.fori_loop(*span, one, (values, jnp.zeros(2)))
        return found

    state = _State(trainer, run_steps, replica)

    def prepare(shares: np.ndarray, counts: np.ndarray) -> Span:
        # The devices share out the first axis, which is filled up with zeros: these mean none.
        places = replica.split(shares[0].swapaxes(0, 1) + 1) - 1

        def run(first: int, last: int, stop: float) -> np.ndarray:
            totals = state.run((places, counts), placed, first, last)
            return np.append(totals, stop)

        return run

    return prepare


def train_step(trainer: keras.Model, loss: Any) -> Step:
    """Returns the step: gradients, one update of the values, totals.

    The gradient is that of the mean loss over all pictures of the batch.

    Args:
        trainer: From the inputs to logits, with its optimizer.
        loss: Returns the loss of each picture.
    """
    optimizer, on_cpu = trainer.optimizer, is_on_cpu(trainer)

    def step(values: Values, batch: Batch, count: Any) -> tuple[Values, Any]:
        trained, others, moments = values

        def objective(trained: list[Any]) -> tuple[Any, tuple[list[Any], Any]]:
            by_group = summing_by_group(trainer, trained) if on_cpu else contextlib.nullcontext()
            with weighting(batch.weights), by_group:
                logits, moved, penalties = trainer.stateless_call(
                    trained, others, batch.network_inputs, training=True, return_losses=True
                )
            losses = batch.weighted(loss(batch.targets, logits))
            total = jnp.sum(losses) / count + sum(penalties)
            right = jnp.argmax(logits, axis=-1) == jnp.argmax(batch.targets, axis=-1)
            right = batch.weighted(right.astype(jnp.float32))
            totals = jnp.stack([losses, right]).astype(wide_dtype()).sum(axis=1)
            return optimizer.scale_loss(total), (moved, totals)

        gradients, (others, totals) = jax.grad(objective, has_aux=True)(trained)
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        return (trained, others, moments), totals

    return step


class _State:
    """What a function of values changes: the variables of a network and of its optimizer.

    Args:
        trainer: The network.
        work: Takes the values of the variables first, and returns the new ones and totals.
        replica: The devices that hold the variables.
    """

    def __init__(
        self, trainer: keras.Model, work: Callable[..., tuple[Values, Any]], replica: GlobalReplica
    ) -> None:
        self._variables = (
            trainer.trainable_variables,
            trainer.non_trainable_variables,
            trainer.optimizer.variables,
        )
        placement = None
        if replica.devices > 1:  # where XLA might spread the new values in another way
            values = keras.tree.map_structure(lambda value: value.sharding, self._values())
            placement = (values, None)
        self._work = jax.jit(work, donate_argnums=0, out_shardings=placement)

    def _values(self) -> Values:
        trained, others, moments = ([each.value for each in kind] for kind in self._variables)
        return trained, others, moments

    def run(self, *arguments: Any) -> np.ndarray:
        """Does the work on the variables; returns the totals."""
        # Without it JAX makes float32 of float64, in which statistics of a batch are summed.
        with jax.enable_x64(True):
            values, totals = self._work(self._values(), *arguments)
        # The devices are still at work meanwhile.
        for kind, new in zip(self._variables, values, strict=True):
            for variable, value in zip(kind, new, strict=True):
                variable.assign(value)
        return np.asarray(totals)
