"""The folded network inside a graph: its weights are constants, which no server has to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.folding import Folded

# The kernels of oneDNN keep a constant in the order that they need, and reorder what is read from
# a variable at each call. But TensorFlow holds constants many times: ResNet-50 (94 MB) loads into
# 1.8 GB, and into 0.16 GB with variables. ResNet-200 (247 MiB) is below this bound.
CONSTANT_BYTES = 2**28
# The least normal number of float32 and bfloat16.
NEXT_TO_ZERO = 2.0**-126

Network = Callable[[tf.Tensor], tf.Tensor]


def folded_network(model: keras.Model, dtype: str) -> tuple[Network, list[tf.Variable]]:
    """Returns the network for use in a traced function, and the variables that it reads.

    Args:
        model: A model of `build_resnet`, of any dtype policy.
        dtype: What the convolutions compute in: "float32" or "bfloat16".

    Returns:
        A function from pixels in [0, 255] to logits, and its variables: none, unless its weights
        are too large for constants.
    """
    folded = Folded(model, dtype=dtype)
    tensors = folded.tensors()
    held: dict[str, Any] = {name: _fusible(np.asarray(tensor)) for name, tensor in tensors.items()}
    variables = []
    if sum(array.nbytes for array in held.values()) > CONSTANT_BYTES:
        held = {name: tf.Variable(array, trainable=False) for name, array in held.items()}
        variables = list(held.values())

    def network(pixels: tf.Tensor) -> tf.Tensor:
        return folded(pixels, {name: tf.convert_to_tensor(each) for name, each in held.items()})

    return network, variables


def _fusible(array: np.ndarray) -> np.ndarray:
    """Returns a tensor; of nothing but zeros, as a new network has them, next to zero instead.

    TensorFlow removes the addition of a constant that is 0, and then finds no bias any more that
    it could fuse with the convolution before it and the ReLU behind it.
    """
    return array if array.any() else np.full_like(array, NEXT_TO_ZERO)
