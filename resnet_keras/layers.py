"""The layers that Keras lacks, but for batch norm: pixels in, paddings, dilated pooling."""

from __future__ import annotations

import math
import sys
from typing import Any

import keras
from keras import ops

from resnet_keras.records import Record

PACKAGE = "resnet_keras"
PREPROCESS = "preprocess"
_RECURSION = 50_000


@keras.saving.register_keras_serializable(PACKAGE)
class Preprocess(keras.layers.Layer):
    """Turns pixels in [0, 255] into what the weights expect, and says which weights these are.

    The layer has no weights: mean and standard deviation come from the recipe of its record,
    which is part of the layer's config and so of every saved model.

    Args:
        record: The `Record` of the weights that follow, or the dictionary it was saved as.
        **kwargs: Those of `keras.layers.Layer`; pixels become floats in float32 by default,
            whatever precision the network behind computes in.
    """

    def __init__(self, record: Record | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(trainable=False, **{"dtype": "float32"} | kwargs)
        self.record = record if isinstance(record, Record) else Record.from_dict(record)

    def call(self, images: Any) -> Any:
        """Returns `(images - mean) / std`, `(batch, height, width, channels)`."""
        recipe = self.record.recipe
        scale = ops.convert_to_tensor([1 / std for std in recipe.std], self.compute_dtype)
        offset = [-mean / std for mean, std in zip(recipe.mean, recipe.std, strict=True)]
        return ops.cast(images, self.compute_dtype) * scale + ops.convert_to_tensor(
            offset, self.compute_dtype
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        config = super().get_config()
        del config["trainable"]
        return {**config, "record": self.record.to_dict()}


@keras.saving.register_keras_serializable(PACKAGE)
class InfinityPadding2D(keras.layers.ZeroPadding2D):
    """Pads height and width with minus infinity, which no max pool ever picks.

    Args:
        padding: Rows and columns on each side, in pixels.
        **kwargs: Those of `keras.layers.ZeroPadding2D`.
    """

    def call(self, inputs: Any) -> Any:
        """Returns the padded features."""
        return ops.pad(inputs, ((0, 0), *self.padding, (0, 0)), constant_values=-math.inf)


@keras.saving.register_keras_serializable(PACKAGE)
class ZeroPaddedChannels(keras.layers.Layer):
    """Appends channels of zeros: the identity shortcut where the number of channels grows.

    Option A of He et al. 2015, arXiv 1512.03385, section 3.3.

    Args:
        filters: Output channels, at least as many as the input has.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def call(self, inputs: Any) -> Any:
        """Returns `(batch, height, width, filters)`, the input first."""
        missing = self.filters - inputs.shape[-1]
        return ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, missing)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the output."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        return {**super().get_config(), "filters": self.filters}


def functional(inputs: Any, outputs: Any, *, name: str | None = None) -> keras.Model:
    """Returns the Functional model between two tensors, however many layers lie between.

    Keras walks the graph by recursion, one call a layer, and a network of 1,202 weighted layers
    has over 4,000 of them.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION))
    try:
        return keras.Model(inputs, outputs, name=name)
    finally:
        sys.setrecursionlimit(limit)


def is_head(name: str) -> bool:
    """Returns whether the layer of that name belongs to the head."""
    return name.startswith(("head_", "logits"))


@keras.saving.register_keras_serializable(PACKAGE)
class DilatedAveragePooling2D(keras.layers.Layer):
    """Averages each position with those to its right and below it; Keras dilates no pool.

    Beyond the edge nothing is averaged, as in `AveragePooling2D(2, padding="same")`.

    Args:
        dilation: Distance of the positions, in steps of the map.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, dilation: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dilation = dilation

    def call(self, inputs: Any) -> Any:
        """Returns the averages, of the shape of the input."""
        return self._sum(inputs) / self._sum(ops.ones_like(inputs[:1, :, :, :1]))

    def _sum(self, x: Any) -> Any:
        step = self.dilation
        x = ops.pad(x, ((0, 0), (0, step), (0, step), (0, 0)))
        rows = x[:, :-step] + x[:, step:]
        return rows[:, :, :-step] + rows[:, :, step:]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        return {**super().get_config(), "dilation": self.dilation}


def record_of(model: keras.Model) -> Record:
    """Returns the record that the model carries in its `preprocess` layer.

    Raises:
        ValueError: If the model was not made by this package.
    """
    for layer in model.layers:
        if isinstance(layer, Preprocess):
            return layer.record
    raise ValueError(
        "The model must come from `build_resnet`, which says how its pixels are prepared. "
        f"Received: model={model.name!r} without a `{PREPROCESS}` layer"
    )


def set_record(model: keras.Model, record: Record) -> None:
    """Makes the model carry another record; what was compiled is traced anew on its next use."""
    for layer in model.layers:
        if isinstance(layer, Preprocess):
            layer.record = record
    model.train_function = model.test_function = model.predict_function = None
