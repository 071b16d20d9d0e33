"""A network on the devices of a strategy, and back."""

from __future__ import annotations

import keras
import tensorflow as tf

from resnet_keras.distribution.replicas import Replicas
from resnet_keras.layers import record_of, set_record


def placed(model: keras.Model, replicas: Replicas) -> keras.Model:
    """Returns a copy of the model with a copy of each weight on each device.

    Keras makes these copies only when a variable is made, and only in the scope of a strategy.
    For one device the model itself is returned, unless it has such copies.
    """
    if replicas.is_plain and not any(map(_is_spread, model.weights)):
        return model
    with replicas.scope():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    return copy


def _is_spread(weight: keras.Variable) -> bool:
    return isinstance(weight.value, tf.distribute.DistributedValues)


def returned(copy: keras.Model, model: keras.Model) -> None:
    """Gives a model what its copy has become."""
    if copy is model:
        return
    model.set_weights(copy.get_weights())
    set_record(model, record_of(copy))
    for layer, other in zip(model.layers, copy.layers, strict=True):
        layer.trainable = other.trainable
