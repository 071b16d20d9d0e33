"""The layers that Keras lacks: pixels in, fixed batch-norm statistics, paddings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from resnet_keras.batch_statistics import batch_statistics, per_picture, picture_weights
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
class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm that can fix its statistics while gamma and beta train, and runs fused.

    `fit` hands `training=True` to every layer of a Functional model, so calling a layer with
    `training=False` does not hold its statistics still; `fixed_statistics` does.

    On TensorFlow, 4-D features with channels last go through the fused kernel; everything
    else takes Keras's own path, with the same outputs, gradients and moving statistics. Inside
    `weighting`, and where it is synchronized, statistics are those of the pictures that count,
    summed in float64; where none counts, the moving statistics are used, and kept.

    Args:
        fixed_statistics: Whether the moving statistics are used, and kept, in training too.
        synchronized: Whether the statistics are those of the whole batch, where tf.distribute
            splits it over replicas; else each replica takes those of its own part.
        **kwargs: Those of `keras.layers.BatchNormalization`.
    """

    def __init__(
        self, *, fixed_statistics: bool = False, synchronized: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fixed_statistics = fixed_statistics
        # Keras takes the option on TensorFlow only, and would not load the layer elsewhere.
        self.synchronized = synchronized

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the normalised features, of the shape of the input.

        Raises:
            ValueError: If pictures are weighted, or statistics synchronized, and there is a mask
                or batch renorm.
        """
        training = bool(training and self.trainable and not self.fixed_statistics)
        weights = picture_weights()
        if training and (self.synchronized or weights is not None):
            self._check_countable(mask)
            return self._call_counting(inputs, weights)
        if self._can_fuse(inputs, mask):
            return self._call_fused(inputs, training)
        return super().call(inputs, training=training, mask=mask)

    def _can_fuse(self, inputs: Any, mask: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "bfloat16", "float16")
        )

    def _check_countable(self, mask: Any) -> None:
        if mask is not None or self.renorm:
            raise ValueError(
                "Batch norm must have neither a mask nor `renorm=True` where it weights pictures "
                f"or is synchronized. Received: renorm={self.renorm}, "
                f"{'no' if mask is None else 'a'} mask, in the layer {self.name!r}"
            )

    def _call_counting(self, inputs: Any, weights: Any) -> Any:
        features = ops.cast(inputs, "float32")
        count, mean, variance = batch_statistics(
            features, axis=self.axis, weights=weights, synchronized=self.synchronized
        )
        mean = ops.where(count > 0, mean, ops.cast(self.moving_mean, mean.dtype))
        variance = ops.where(count > 0, variance, ops.cast(self.moving_variance, mean.dtype))
        keep = ops.where(count > 0, self.momentum, ops.ones_like(count))
        self._move_statistics(mean, variance, keep=keep)
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, scale.dtype)
        mean, scale = (per_picture(value, features, axis=self.axis) for value in (mean, scale))
        outputs = (features - mean) * scale
        if self.center:
            beta = ops.cast(self.beta, variance.dtype)
            outputs = outputs + per_picture(beta, features, axis=self.axis)
        return ops.cast(outputs, self.compute_dtype)

    def _call_fused(self, inputs: Any, training: bool) -> Any:
        from tensorflow import raw_ops

        statistics = ([], []) if training else (self.moving_mean, self.moving_variance)
        outputs, mean, variance, *_ = raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma),
            offset=ops.convert_to_tensor(self.beta),
            mean=ops.convert_to_tensor(statistics[0], "float32"),
            variance=ops.convert_to_tensor(statistics[1], "float32"),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            self._move_statistics(mean, self._biased(variance, inputs), keep=self.momentum)
        return outputs

    def _biased(self, variance: Any, inputs: Any) -> Any:
        # The kernel returns the variance over N - 1, Keras keeps the one over N.
        count = ops.cast(ops.prod(ops.shape(inputs)[:3]), "float32")
        return variance * (count - 1) / count

    def _move_statistics(self, mean: Any, variance: Any, *, keep: Any) -> None:
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept = ops.cast(keep, moving.dtype)
            moving.assign(moving * kept + ops.cast(value, moving.dtype) * (1 - kept))

    def get_config(self) -> dict[str, Any]:
        """Returns the config that rebuilds this layer."""
        return {**super().get_config(), "fixed_statistics": self.fixed_statistics}


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


def counting_layers(model: keras.layers.Layer) -> Iterator[BatchNorm]:
    """Yields the batch norms of a network, however nested, that train on batch statistics."""
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, BatchNorm) and layer.trainable and not layer.fixed_statistics:
            yield layer
        yield from counting_layers(layer)


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
