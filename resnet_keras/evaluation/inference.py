"""Probabilities of pictures from the folded network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from resnet_keras.data import flip_views
from resnet_keras.data.augment import Flip
from resnet_keras.distribution.compiled import compiled
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.folding import Folded
from resnet_keras.layers import record_of
from resnet_keras.precision import Precision, choose_precision

Traced = Callable[[Any], Any]


class _Traces:
    """The traced functions of one model; a plain object, which Keras neither tracks nor saves."""

    def __init__(self) -> None:
        self.functions: dict[Any, Traced] = {}


def batch_probabilities(
    model: keras.Model,
    batches: Iterable[Any],
    *,
    flips: Flip,
    precision: Precision,
    replicas: Replicas,
) -> np.ndarray:
    """Returns the softmax of the logits in float32, averaged over the flips of each picture.

    Args:
        model: A classifier of `build_resnet`.
        batches: Pictures in [0, 255], `(batch, height, width, channels)` each.
        flips: Mirrored versions of each picture.
        precision: What the convolutions compute in.
        replicas: Those of this process share each batch.

    Returns:
        Probabilities, `(pictures, classes)`.
    """
    dtype = choose_precision(precision, model).dtype
    means = []
    for batch in batches:
        images = tf.convert_to_tensor(batch)
        spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
        run = _traced(model, dtype, spec, replicas=replicas)
        views = [np.asarray(run(view)) for view in flip_views(images, flips)]
        means.append(np.mean(views, axis=0))
    return np.concatenate(means) if means else np.zeros((0, 1), np.float32)


def _traced(
    model: keras.Model, dtype: str, pictures: tf.TensorSpec, *, replicas: Replicas
) -> Traced:
    """Returns the function from pixels to probabilities; it sees later changes of the weights."""
    if not hasattr(model, "inference_traces"):
        model.inference_traces = _Traces()
    recipe = record_of(model).recipe
    key = (dtype, pictures, recipe.mean, recipe.std, replicas)
    traces: dict[Any, Traced] = model.inference_traces.functions
    if key not in traces:
        folded = Folded(model, dtype=dtype)

        def probabilities(images: Any) -> Any:
            return ops.softmax(ops.cast(folded(images), "float32"))

        traces[key] = compiled(replicas.mapped(probabilities), pictures, variables=model.variables)
    return traces[key]
