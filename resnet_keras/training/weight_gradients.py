"""Gradients that are the same to the last bit for one replica, two or four.

A sum of floats depends on the order of its terms. The last bits of weights decide on which side
of 0 the input of a ReLU falls that is next to it, and Adam then moves the weights behind it by
a good part of a step: a network that trains on two devices would soon differ visibly from one
that trains on one. So the pictures of a batch are dealt out to groups, whose number is that of
no replicas, and the gradient of a weight is the sum of the groups' as a binary tree: its lower
levels lie within a replica, the upper ones are the sum over replicas.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.distribution.tree_sum import tree_sum
from resnet_keras.training.layer_calls import calling_layers
from resnet_keras.weight_uses import Notes, Use, constant, current_notes, noting


class WeightGradients:
    """The gradients of a replica's weights, by groups of its pictures.

    Args:
        tape: What watches the call of the network.
        groups: Number of groups, of equal size, that lie one after the other in the batch; None
            leaves the order of sums to TensorFlow.
    """

    def __init__(self, tape: tf.GradientTape, groups: int | None) -> None:
        self._tape = tape
        self._notes = Notes(groups, tape.watch) if groups else None

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Notes the uses of weights inside the block, which holds the call of the network."""
        return noting(self._notes)

    def of(self, target: tf.Tensor, variables: Sequence[Any]) -> list[tf.Tensor]:
        """Returns the gradients of a scalar with respect to variables."""
        if self._notes is None:
            found: list[tf.Tensor] = self._tape.gradient(target, variables)
            return found
        uses, groups = self._notes.uses, self._notes.groups
        errors, others = self._tape.gradient(target, ([use.outputs for use in uses], variables))
        known = dict(zip(map(id, variables), others, strict=True))
        for use, error in zip(uses, errors, strict=True):
            for variable, new in zip(use.variables, _summed(use, error, groups), strict=True):
                before = known[id(variable)]
                known[id(variable)] = new if before is None else before + new
        return [known[id(variable)] for variable in variables]


def _summed(use: Use, error: tf.Tensor, groups: int) -> list[tf.Tensor]:
    # The parts of the first axis are no copies.
    split = zip(*(tf.split(each, groups) for each in (*use.inputs, error)), strict=True)
    parts = [use.gradients(*group) for group in split]
    return [tree_sum(group) for group in zip(*parts, strict=True)]


def noting_layers(trainer: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Makes the layers of a network note their uses of weights inside the block.

    It goes around all replicas, whose traces take turns.
    """
    return calling_layers(trainer, _call)


def _call(layer: Any, inputs: tf.Tensor, **options: Any) -> tf.Tensor:
    call = functools.partial(type(layer).call, layer, **options)
    if (notes := current_notes()) is None:
        return call(inputs)
    variables = layer.trainable_variables
    with constant(variables):
        outputs = _by_group(call, inputs, notes.groups) if _rounds(layer) else call(inputs)
    gradients = _of_product if _is_product(layer) else _of_call
    notes.add(Use(variables, (inputs,), outputs, functools.partial(gradients, layer)))
    return outputs


def _rounds(layer: Any) -> bool:
    """Returns whether the last bits of a picture depend on the number of pictures.

    They do so in the products of matrices of TensorFlow, where these have few rows.
    """
    return isinstance(layer, keras.layers.Dense)


def _by_group(call: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor, groups: int) -> tf.Tensor:
    return tf.concat([call(group) for group in tf.split(inputs, groups)], axis=0)


def _is_product(layer: Any) -> bool:
    """Returns whether a layer multiplies each position by a matrix, and does no more."""
    if isinstance(layer, keras.layers.Dense):
        return layer.activation is keras.activations.linear
    return isinstance(layer, keras.layers.Conv2D) and (
        (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
    )


def _of_product(layer: Any, inputs: tf.Tensor, error: tf.Tensor) -> list[tf.Tensor]:
    rows, errors = (tf.reshape(each, (-1, each.shape[-1])) for each in (inputs, error))
    kernel = tf.cast(tf.matmul(rows, errors, transpose_a=True), layer.kernel.dtype)
    kernel = tf.reshape(kernel, layer.kernel.shape)
    if not layer.use_bias:
        return [kernel]
    return [kernel, tf.reduce_sum(tf.cast(errors, layer.bias.dtype), axis=0)]


def _of_call(layer: Any, inputs: tf.Tensor, error: tf.Tensor) -> list[tf.Tensor]:
    variables = layer.trainable_variables
    values = [tf.convert_to_tensor(variable) for variable in variables]
    with tf.GradientTape() as tape, keras.StatelessScope(zip(variables, values, strict=True)):
        tape.watch(values)
        outputs = layer(inputs)
    found: list[tf.Tensor] = tape.gradient(outputs, values, error)
    return found
