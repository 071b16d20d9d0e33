"""Sums of tensors as binary trees, whose upper levels may lie in other replicas."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def tree_sum(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the sum of tensors of one shape: the first half plus the second, and so on.

    Of four it is `(a + c) + (b + d)`. So it is where two replicas add a and c, and b and d, and
    then what they have.
    """
    shape, level = values[0].shape, 0
    while len(values) > 1:
        if level:
            # TensorFlow puts sums into an order of its own while all of them have one shape.
            values = [tf.reshape(each, (1,) * level + (-1,)) for each in values]
        half, level = -(-len(values) // 2), level + 1
        pairs = zip(values[:half], values[half:], strict=False)
        values = [a + b for a, b in pairs] + list(values[len(values) - half : half])
    return tf.reshape(values[0], shape) if level > 1 else values[0]
