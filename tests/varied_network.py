"""A small network with each way in which weights meet pictures, and pictures for it."""

import keras
import numpy as np
from keras import layers

from resnet_keras.batch_norm import BatchNorm


def varied_network():
    """Returns the network; one of its layers meets them twice."""
    inputs = keras.Input((12, 12, 4))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="strided")(inputs)
    x = BatchNorm(fixed_statistics=True, name="fixed")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=2, activation="relu", name="grouped")(x)
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2, use_bias=False, name="dilated")(x)
    x = BatchNorm(synchronized=True, name="counting")(x)
    shared = layers.Conv2D(8, 1, kernel_regularizer=keras.regularizers.L2(0.1), name="shared")
    x = layers.ReLU()(shared(shared(x)))
    x = layers.Conv2D(16, 1, strides=2, name="sampled")(x)
    inner = keras.Input(x.shape[1:])
    pooled = layers.GlobalAveragePooling2D()(inner)
    hidden = layers.Dense(8, activation="gelu", name="hidden")(pooled)
    outputs = layers.Dense(3, name="logits")(hidden)
    return keras.Model(inputs, keras.Model(inner, outputs, name="nested")(x))


def drawn(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
