"""Gradients on JAX that are the same for one device, two, four or eight.

Why that matters is told in `weight_gradients`. Here each device has a part of the arrays, and XLA
sums what the pictures of a part add to a weight in an order of its own. So the pictures are taken
in groups as large as the part of one of eight devices, which come out the same wherever they are
computed, and the groups are added in float64: in whatever order, it rounds to one float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from jax import numpy as jnp

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.batch_statistics import wide_dtype
from resnet_keras.distribution.compiled import FEWEST
from resnet_keras.training.layer_calls import calling_layers

Values = Sequence[Any]  # of variables that train
# At most; each is computed by itself, and compiled.
GROUPS = 8


def is_on_cpu(trainer: keras.Model) -> bool:
    """Returns whether CPUs train a network; accelerators want large groups, and know no float64."""
    devices = trainer.trainable_variables[0].value.devices()
    return bool(next(iter(devices)).platform == "cpu")


def summing_by_group(
    trainer: keras.Model, values: Values
) -> contextlib.AbstractContextManager[None]:
    """Makes the layers of a network sum the gradients of weights by groups inside the block.

    The block holds the call of the network, to be differentiated with respect to the values.

    Args:
        trainer: The network.
        values: Those of the variables that train.
    """
    known = dict(zip(map(id, trainer.trainable_variables), values, strict=True))

    def call(layer: Any, inputs: Any, **options: Any) -> Any:
        outputs = _summed(layer, functools.partial(type(layer).call, layer, **options))
        return outputs([known[id(variable)] for variable in layer.trainable_variables], inputs)

    return calling_layers(trainer, call)


def _summed(layer: Any, call: Callable[[Any], Any]) -> Callable[[Values, Any], Any]:
    """Returns the call of a layer as a function of values and inputs, with such gradients."""

    def outputs(values: Values, inputs: Any) -> Any:
        with _holding(layer, values):
            return call(inputs)

    def start(values: Values, inputs: Any) -> tuple[Any, Any]:
        found, backward = jax.vjp(lambda inputs: outputs(values, inputs), inputs)
        return found, (backward, values, inputs)

    def finish(kept: Any, error: Any) -> tuple[Any, Any]:
        backward, values, inputs = kept
        return _gradients(layer, values, (inputs, error)), *backward(error)

    function: Any = jax.custom_vjp(outputs)
    function.defvjp(start, finish)
    found: Callable[[Values, Any], Any] = function
    return found


def _holding(layer: Any, values: Values) -> Any:
    return keras.StatelessScope(zip(layer.trainable_variables, values, strict=True))


def _gradients(layer: Any, values: Values, pictures: tuple[Any, Any]) -> list[Any]:
    """Returns those of the values, of all devices, from inputs and the gradient of outputs."""
    size = max(-(-pictures[0].shape[0] // GROUPS), FEWEST)

    def of_part(values: Values, pictures: tuple[Any, Any]) -> list[Any]:
        groups = zip(*(_split(each, size) for each in pictures), strict=True)
        parts = zip(*(_of_group(layer, values, group) for group in groups), strict=True)
        return [sum(each.astype(wide_dtype()) for each in part) for part in parts]

    sharding = layer.trainable_variables[0].value.sharding
    found = _over_devices(of_part, sharding)(values, pictures)
    return [new.astype(value.dtype) for new, value in zip(found, values, strict=True)]


def _split(rows: Any, size: int) -> list[Any]:
    missing = -rows.shape[0] % size
    rows = jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    found: list[Any] = jnp.split(rows, rows.shape[0] // size)
    return found


def _of_group(layer: Any, values: Values, pictures: tuple[Any, Any]) -> list[Any]:
    inputs, error = pictures

    def outputs(values: Values) -> Any:
        with _holding(layer, values):
            return layer(inputs)

    found: list[Any] = jax.vjp(outputs, values)[1](error)[0]
    if _adds_bias(layer):
        # XLA makes so short a sum in this order or that, as the code around it is.
        found[-1] = error.astype(wide_dtype()).sum(range(error.ndim - 1))
    return found


def _adds_bias(layer: Any) -> bool:
    """Returns whether a layer adds a bias last of all, to its last axis."""
    if isinstance(layer, BatchNorm) or not layer.use_bias:
        return False
    last = getattr(layer, "data_format", None) != "channels_first"
    return last and layer.activation is keras.activations.linear


def _over_devices(work: Callable[..., list[Any]], sharding: Any) -> Callable[..., list[Any]]:
    """Returns the sum of what each device makes of all values and of its own part of the rows."""
    if len(sharding.device_set) == 1:
        return work
    axes = sharding.mesh.axis_names

    def summed(*given: Any) -> list[Any]:
        found: list[Any] = jax.lax.psum(work(*given), axes)
        return found

    # Gradients of values are of one device alone where it does not check which arrays vary.
    shared = functools.partial(jax.shard_map, mesh=sharding.mesh, check_vma=False)
    spread: Callable[..., list[Any]] = shared(
        summed, in_specs=(jax.P(), jax.P(axes)), out_specs=jax.P()
    )
    return spread
