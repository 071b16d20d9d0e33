"""The stock search: the space of `tune` as a keras-tuner HyperModel over keras.applications.

Each trial sends all pictures through the frozen network in every epoch, as `fit` does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from benchmarks.pictures import CLASSES
from benchmarks.stock import NETWORKS, UNTUNED

DEPTH = 50
# The last layer of each stage, by its number.
ENDS = {
    4: "conv5_block3_out",
    3: "conv4_block6_out",
    2: "conv3_block4_out",
    1: "conv2_block3_out",
}
NORMALIZATIONS = {
    "batch": keras.layers.BatchNormalization,
    "layer": keras.layers.LayerNormalization,
}
VALIDATION = 0.15


class StockModel(keras_tuner.HyperModel):
    """A head on a stage of the frozen network with random weights.

    Args:
        image_size: Side of the pictures, in pixels, at least 32.
        stages: Stages that are searched.
    """

    def __init__(self, image_size: int, stages: Sequence[int] = tuple(ENDS)) -> None:
        super().__init__()
        self._shape, self._stages = (image_size, image_size, 3), list(stages)

    def build(self, hp: Any) -> keras.Model:
        """Returns the compiled network."""
        backbone = NETWORKS[DEPTH](
            weights=None, include_top=False, input_shape=self._shape, pooling=None
        )
        end = backbone.get_layer(ENDS[hp.Choice("stage", self._stages)])
        backbone = keras.Model(backbone.input, end.output)
        backbone.trainable = False
        pictures = keras.Input(self._shape)
        x = backbone(keras.applications.resnet.preprocess_input(pictures))
        x = _pooled(x, hp.Choice("pooling", ["avg", "max", "both"]))
        model = keras.Model(pictures, _logits(x, hp))
        smoothing = hp.Choice("label_smoothing", [0.0, 0.1])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        model.compile(optimizer=_optimizer(hp), loss=loss, metrics=["accuracy"])
        return model

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Trains it; random pictures are balanced, so the weights of their classes are all 1."""
        balanced = hp.Boolean("class_balance")
        weights = dict.fromkeys(range(CLASSES), 1.0) if balanced else None
        return model.fit(*args, class_weight=weights, **kwargs)


def _pooled(x: Any, pooling: str) -> Any:
    average, largest = keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D()
    if pooling == "both":
        return keras.layers.Concatenate()([average(x), largest(x)])
    return average(x) if pooling == "avg" else largest(x)


def _logits(x: Any, hp: Any) -> Any:
    kind = hp.Choice("normalization", ["none", "batch", "layer"])
    dropout = hp.Choice("dropout", [0.0, 0.2, 0.4])
    hidden_layers = hp.Choice("hidden_layers", [0, 1, 2])

    def prepared(x: Any) -> Any:
        if kind != "none":
            x = NORMALIZATIONS[kind]()(x)
        return keras.layers.Dropout(dropout)(x)

    if hidden_layers:
        with hp.conditional_scope("hidden_layers", [1, 2]):
            units = hp.Choice("units", [128, 64])
            activation = hp.Choice("activation", ["relu", "silu"])
        for _ in range(hidden_layers):
            x = keras.layers.Dense(units, activation=activation)(prepared(x))
    return keras.layers.Dense(CLASSES)(prepared(x))


def _optimizer(hp: Any) -> keras.optimizers.Optimizer:
    name = hp.Choice("optimizer", ["adamw", "sgd"])
    low, high = {"adamw": (1e-4, 1e-2), "sgd": (1e-2, 1.0)}[name]
    with hp.conditional_scope("optimizer", [name]):
        rate = hp.Float("learning_rate", low, high, sampling="log")
    decay = hp.Float("weight_decay", 1e-5, 1e-2, sampling="log")
    if name == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=decay)
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)


def stock_search(
    pixels: np.ndarray, labels: np.ndarray, *, trials: int, epochs: int, batch_size: int
) -> Callable[[], Sequence[float]]:
    """Returns the function that searches each stage in turn and returns the seconds of each.

    Args:
        pixels: Pictures, uint8 `(pictures, side, side, 3)`.
        labels: Their classes, `(pictures,)`.
        trials: Trials of each stage; stages differ in time, and a search draws all alike.
        epochs: Passes over the training pictures.
        batch_size: Pictures a step.
    """
    held = round(VALIDATION * len(labels))
    targets = keras.utils.to_categorical(labels, CLASSES)
    train, validation = (
        tf.data.Dataset.from_tensor_slices((pixels[part], targets[part]))
        .shuffle(len(pixels[part]))
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(UNTUNED)
        for part in (slice(held, None), slice(held))
    )

    def search(stage: int) -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tuner = keras_tuner.RandomSearch(
                StockModel(pixels.shape[1], [stage]), objective="val_accuracy", max_trials=trials,
                seed=stage, directory=folder, project_name="search",
            )  # fmt: skip
            # Keras warns if it is left to shuffle a dataset, which shuffles itself.
            tuner.search(train, validation_data=validation, epochs=epochs, shuffle=False, verbose=0)
        return time.perf_counter() - started

    return lambda: [search(stage) for stage in ENDS]
