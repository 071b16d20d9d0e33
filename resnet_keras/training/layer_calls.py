"""How the layers that train are called in a step, where the order of sums matters."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from resnet_keras.batch_norm import BatchNorm


@contextlib.contextmanager
def calling_layers(trainer: keras.Model, call: Callable[..., Any]) -> Iterator[None]:
    """Calls layers of a network in another way inside the block.

    These are convolutions and Dense layers whose kernel trains, and batch norms that train with
    fixed statistics: what becomes of a picture there depends on that picture alone.

    Args:
        trainer: The network, however nested.
        call: Takes the layer, its inputs and the other arguments of its `call`.
    """
    layers = [layer for layer in _leaves(trainer) if _is_of_pictures(layer)]
    for layer in layers:
        layer.call = functools.partial(call, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _leaves(layer: Any) -> Iterator[Any]:
    if not isinstance(layer, keras.Model):
        yield layer
        return
    for inner in layer.layers:
        yield from _leaves(inner)


def _is_of_pictures(layer: Any) -> bool:
    trained = len(layer.trainable_variables)
    if isinstance(layer, BatchNorm):
        return trained > 0 and layer.fixed_statistics
    # Layers that inherit from these may do otherwise; with LoRA the kernel itself does not train.
    plain = type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
    return plain and trained == 1 + layer.use_bias
