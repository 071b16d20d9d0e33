"""The stock program: what a user writes from the Keras guide to transfer learning.

The networks of keras.applications are v1: 3.86 billion multiply-adds a picture of 224 pixels at
depth 50, against 4.09 of v1.5, the default of this project.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from benchmarks.pictures import CLASSES

Case = Literal["head", "last_stage", "full"]
NETWORKS = {
    50: keras.applications.ResNet50,
    101: keras.applications.ResNet101,
    152: keras.applications.ResNet152,
}
LEARNING_RATE = 1e-3
# The first step traces and compiles, the second shows that it is over.
WARM_UP_STEPS = 2
# In TensorFlow 2.21 the end of some epochs waits for the thread that tunes, as long again as the
# steps took. A ratio of times should not say how often.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False


def stock_model(depth: int, case: Case, image_size: int) -> keras.Model:
    """Returns the compiled network with random weights, trainable as the case says.

    Args:
        depth: 50, 101 or 152.
        case: "head" (all else is frozen), "last_stage" (and the convolutions of conv5, batch
            norm frozen) or "full" (everything).
        image_size: Side of the pictures, in pixels, at least 32.
    """
    backbone = NETWORKS[depth](
        weights=None, include_top=False, input_shape=(image_size, image_size, 3), pooling="avg"
    )
    backbone.trainable = case != "head"
    if case == "last_stage":
        for layer in backbone.layers:
            norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = layer.name.startswith("conv5_") and not norm
    pictures = keras.Input((image_size, image_size, 3))
    features = backbone(keras.applications.resnet.preprocess_input(pictures))
    model = keras.Model(pictures, keras.layers.Dense(CLASSES)(features))
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def stock_epoch(
    model: keras.Model, pixels: np.ndarray, labels: np.ndarray, *, batch_size: int
) -> Callable[[], Sequence[float]]:
    """Returns the function that trains for an epoch and returns its seconds; it is warm."""
    data = (
        tf.data.Dataset.from_tensor_slices((pixels, labels))
        .shuffle(len(labels))
        .batch(batch_size)
        .map(lambda images, classes: (tf.cast(images, tf.float32), classes))
        .prefetch(tf.data.AUTOTUNE)
        .with_options(UNTUNED)
    )
    # Keras warns if it is left to shuffle a dataset, which shuffles itself.
    model.fit(data.take(WARM_UP_STEPS), shuffle=False, verbose=0)

    def epoch() -> list[float]:
        started = time.perf_counter()
        model.fit(data, shuffle=False, verbose=0)
        return [time.perf_counter() - started]

    return epoch
