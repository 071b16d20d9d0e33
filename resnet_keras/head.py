"""The head: from features to logits, all of it in float32."""

from __future__ import annotations

import keras

from resnet_keras.architectures import Activation, Pooling
from resnet_keras.batch_norm import BatchNorm
from resnet_keras.blocks import BN_MOMENTUM
from resnet_keras.specs import ResNetSpec

# As everywhere in torch.
LAYER_NORM_EPSILON = 1e-5
# Whatever precision the network computes in, the head sees float32.
DTYPE = "float32"


def apply_head(
    x: keras.KerasTensor, spec: ResNetSpec, num_classes: int, *, dropout: float = 0.0
) -> keras.KerasTensor:
    """Returns the logits of pooled features.

    Each dense layer sees its inputs normalised first and dropped out second; an activation
    follows all but the last.

    Args:
        x: Pooled features, `(batch, channels)`.
        spec: What says which layers there are.
        num_classes: Number of logits.
        dropout: Share of the inputs of each dense layer dropped in training, in [0, 1).

    Returns:
        Logits, `(batch, num_classes)`.

    Example:
        >>> x = keras.Input((512,))
        >>> head = keras.Model(x, apply_head(x, ResNetSpec(18, head=(64,)), 5))
        >>> [layer.name for layer in head.layers[1:]]
        ['head_1_dense', 'head_1_relu', 'logits']
    """
    for number, units in enumerate(spec.head, 1):
        name = f"head_{number}"
        x = _prepared(x, spec, dropout, name=name)
        x = keras.layers.Dense(
            units, kernel_initializer="he_normal", dtype=DTYPE, name=f"{name}_dense"
        )(x)
        x = _activated(x, spec.head_activation, name=name)
    x = _prepared(x, spec, dropout, name="head")
    return keras.layers.Dense(num_classes, dtype=DTYPE, name="logits")(x)


def pooled(x: keras.KerasTensor, pooling: Pooling) -> keras.KerasTensor:
    """Returns features pooled over all positions, `(batch, channels)`."""
    average, largest = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
    if pooling != "both":
        return (average if pooling == "avg" else largest)(dtype=DTYPE, name="head_pool")(x)
    both = [
        average(dtype=DTYPE, name="head_pool_avg")(x),
        largest(dtype=DTYPE, name="head_pool_max")(x),
    ]
    return keras.layers.Concatenate(dtype=DTYPE, name="head_pool")(both)


def _prepared(
    x: keras.KerasTensor, spec: ResNetSpec, dropout: float, *, name: str
) -> keras.KerasTensor:
    """Returns the inputs of a dense layer, normalised and with dropout."""
    if spec.head_normalization == "batch":
        x = BatchNorm(
            momentum=BN_MOMENTUM, epsilon=spec.bn_epsilon, dtype=DTYPE, name=f"{name}_norm"
        )(x)
    elif spec.head_normalization == "layer":
        x = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=DTYPE, name=f"{name}_norm"
        )(x)
    return keras.layers.Dropout(dropout, dtype=DTYPE, name=f"{name}_dropout")(x) if dropout else x


def _activated(x: keras.KerasTensor, activation: Activation, *, name: str) -> keras.KerasTensor:
    name = f"{name}_{activation}"
    if activation == "relu":
        return keras.layers.ReLU(dtype=DTYPE, name=name)(x)
    return keras.layers.Activation(activation, dtype=DTYPE, name=name)(x)
