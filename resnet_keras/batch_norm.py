"""Batch norm that runs fused, fixes its statistics, and counts pictures by weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from resnet_keras.batch_statistics import (
    batch_statistics,
    over_replicas,
    per_picture,
    picture_weights,
    wide_dtype,
)
from resnet_keras.layers import PACKAGE
from resnet_keras.weight_uses import Use, constant, current_notes


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
        coefficients = mean, ops.rsqrt(variance + self.epsilon)
        if self.synchronized:
            coefficients = over_replicas(*coefficients)
        mean, scale = (per_picture(each, features, axis=self.axis) for each in coefficients)
        if self.scale:
            scale = scale * self._for_each(self.gamma, features)
        outputs = (features - mean) * scale
        if self.center:
            # A difference, as TensorFlow puts sums, here with those of a shortcut, into any order.
            outputs = outputs - self._for_each(self.beta, features, factor=-1.0)
        return ops.cast(outputs, self.compute_dtype)

    def _for_each(self, variable: Any, features: Any, *, factor: float = 1.0) -> Any:
        """Returns gamma or beta, times a factor, for each picture."""
        if (notes := current_notes()) is None:
            values = factor * ops.cast(variable, wide_dtype())
            return per_picture(values, features, axis=self.axis)
        with constant([variable]):
            values = factor * ops.convert_to_tensor(variable)
            values = per_picture(values, features, axis=self.axis)

        def gradients(error: Any) -> list[Any]:
            total = ops.sum(ops.cast(error, wide_dtype()), axis=0)
            return [factor * ops.cast(ops.reshape(total, variable.shape), variable.dtype)]

        notes.add(Use([variable], (), values, gradients))
        return values

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


def counting_layers(model: keras.layers.Layer) -> Iterator[BatchNorm]:
    """Yields the batch norms of a network, however nested, that train on batch statistics."""
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, BatchNorm) and layer.trainable and not layer.fixed_statistics:
            yield layer
        yield from counting_layers(layer)
