"""`export_model`: a trained network as a SavedModel that serves by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import keras
import tensorflow as tf

from resnet_keras.atomic import write_atomically
from resnet_keras.errors import ExportError
from resnet_keras.export.decode import decode_pictures
from resnet_keras.export.formats import require, size_text
from resnet_keras.export.model_card import write_model_card
from resnet_keras.export.network import Network, folded_network
from resnet_keras.export.publish import new_version
from resnet_keras.export.verify import verify_saved_model
from resnet_keras.layers import record_of
from resnet_keras.precision import Precision, choose_precision
from resnet_keras.records import Recipe

LABELS_FILE = "labels.txt"
PRECISION_FILE = "precision.txt"
# TensorFlow Serving leaves this folder alone; people and scripts find names and precision in it.
EXTRA_FOLDER = "assets.extra"
COLOURS = 3
Outputs = dict[str, tf.Tensor]
Function = Callable[[tf.Tensor], Outputs]


def export_model(
    model: keras.Model,
    path: str | Path,
    *,
    format: Literal["saved_model"] = "saved_model",
    class_names: Sequence[str] | None = None,
    precision: Precision = "float32",
) -> Path:
    """Writes the network as a SavedModel, the next version in a folder that a server watches.

    The SavedModel needs neither this package nor Keras. Its signatures are `serve` (also the
    default), which takes `image`, uint8 `(n, height, width, channels)` of the recipe's size,
    and, for networks of three channels, `serve_bytes`, which takes `image_bytes`, string
    `(n,)`, and decodes, resizes and crops by the recipe. Both return `probabilities`, float32
    `(n, classes)`, `label`, string `(n,)`, and `index`, int64 `(n,)`; n may be 0.

    Each batch norm behind a convolution is folded into it, and the weights are constants of the
    graph, or variables where they are larger than 256 MiB. The model stays as it is.

    Before it appears under its number, it is loaded in a fresh process without this package
    and compared with the model; what does not agree is never published.

    Args:
        model: A network of this package that ends in logits, of any dtype policy.
        path: Folder of all versions, made if missing; the new one is `path/1`, `path/2`, ...
        format: "saved_model".
        class_names: One name a logit, in their order. None takes those of the weights, or "0",
            "1", ... where the weights have none for this head.
        precision: What the convolutions compute in, whatever the model does: "float32",
            "bfloat16", or "auto": what is faster on this machine, which may not be the one that
            serves. On a CPU without units for bfloat16 such an export works, but slowly.

    Returns:
        The folder of the new version, with `labels.txt`, `precision.txt` and `MODEL_CARD.md` in
        `assets.extra/`.

    Raises:
        ValueError: If the model has no logits, the names do not fit them, or the format or the
            precision is unknown.
        ExportError: If the folder cannot be written, the SavedModel differs from the model, or
            Keras runs on another backend than TensorFlow.

    Example:
        >>> import tempfile
        >>> from resnet_keras import build_resnet, export_model
        >>> model = build_resnet(18, num_classes=2, width=0.125)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_model(model, folder, class_names=("cat", "dog")).name
        '1'
    """
    if format != "saved_model":
        raise ValueError(f"`format` must be 'saved_model'. Received: format={format!r}")
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ExportError(
            f"A SavedModel is written on TensorFlow alone, but Keras runs on {backend}: save the "
            "model, and export it in a process with KERAS_BACKEND=tensorflow."
        )
    _check_model(model)
    names = _class_names(model, class_names)
    dtype = choose_precision(precision).dtype
    with new_version(Path(path)) as version:
        _write(model, names, dtype, folder=version.folder)
        verify_saved_model(version.folder, model, names, precision=dtype)
    return version.published


def _write(model: keras.Model, names: Sequence[str], dtype: str, *, folder: Path) -> None:
    module, signatures = _servable(model, names, dtype)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    extra = folder / EXTRA_FOLDER
    labels = "".join(f"{name}\n" for name in names)
    write_atomically(extra / LABELS_FILE, [labels.encode()], ExportError)
    write_atomically(extra / PRECISION_FILE, [f"{dtype}\n".encode()], ExportError)
    record = dataclasses.replace(record_of(model), class_names=tuple(names))
    write_model_card(extra, record, precision=dtype)


def _servable(
    model: keras.Model, names: Sequence[str], dtype: str
) -> tuple[tf.Module, dict[str, Function]]:
    """Returns what a SavedModel is made of: functions and their variables, and its signatures."""
    recipe = record_of(model).recipe
    network, variables = folded_network(model, dtype)
    functions = {"serve": _serve(network, recipe, names)}
    if len(recipe.mean) == COLOURS:
        functions["serve_bytes"] = _serve_bytes(functions["serve"], recipe)
    module = tf.Module()
    module.weights = variables
    for name, function in functions.items():
        setattr(module, name, function)
    return module, {**functions, "serving_default": functions["serve"]}


def _serve(network: Network, recipe: Recipe, names: Sequence[str]) -> Function:
    size, channels = recipe.image_size, len(recipe.mean)

    def serve(image: tf.Tensor) -> Outputs:
        count = tf.shape(image)[0]
        pixels = _of_size(image, size)
        # Fused kernels of TensorFlow 2.21 fail on an empty batch: it gets one black picture.
        pixels = tf.pad(pixels, [[0, tf.maximum(1 - count, 0)], [0, 0], [0, 0], [0, 0]])
        pixels = tf.ensure_shape(pixels, (None, size, size, channels))
        logits = network(tf.cast(pixels, tf.float32))[:count]
        index = tf.argmax(logits, axis=-1)
        return {
            "probabilities": tf.nn.softmax(logits),
            "label": tf.gather(tf.constant(list(names)), index),
            "index": index,
        }

    spec = tf.TensorSpec((None, None, None, channels), tf.uint8, name="image")
    traced: Function = tf.function(serve, input_signature=[spec], autograph=False)
    return traced


def _of_size(image: tf.Tensor, size: int) -> tf.Tensor:
    shape = tf.shape(image)
    right = require(
        tf.reduce_all(shape[1:3] == size),
        name=tf.constant("image"),
        rule=f"must be {size} x {size} pixels",
        received=size_text(shape[1], shape[2]),
    )
    with tf.control_dependencies([right]):
        return tf.identity(image)


def _serve_bytes(serve: Function, recipe: Recipe) -> Function:
    def serve_bytes(image_bytes: tf.Tensor) -> Outputs:
        return serve(decode_pictures(image_bytes, recipe))

    spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
    traced: Function = tf.function(serve_bytes, input_signature=[spec], autograph=False)
    return traced


def _check_model(model: keras.Model) -> None:
    size = record_of(model).recipe.image_size
    if not any(layer.name == "logits" for layer in model.layers):
        raise ValueError(
            "An export needs a network that ends in logits: build it with `num_classes`. "
            f"Received: model={model.name!r} without a `logits` layer"
        )
    if any(side not in (None, size) for side in model.input_shape[1:3]):
        raise ValueError(
            f"The input of the model must be of any size or of the recipe's, {size} x {size} "
            f"pixels. Received: model={model.name!r} with input_shape={model.input_shape[1:]}"
        )


def _class_names(model: keras.Model, class_names: Sequence[str] | None) -> tuple[str, ...]:
    count = model.output_shape[-1]
    if class_names is None:
        known = record_of(model).class_names
        return known if len(known) == count else tuple(map(str, range(count)))
    if isinstance(class_names, str) or len(class_names) != count:
        raise ValueError(
            f"`class_names` must have one name for each of the {count} logits. "
            f"Received: class_names={class_names!r}"
        )
    for name in class_names:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ValueError(
                "Each of `class_names` must be a text of printable characters on one line. "
                f"Received: {name!r}"
            )
    return tuple(class_names)
