"""The last look before publishing: does a stranger get what the model says?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import ExportError
from resnet_keras.export.decode import decode_pictures
from resnet_keras.export.network import Network, folded_network
from resnet_keras.layers import record_of
from resnet_keras.precision import computing_in

TOLERANCE = 1e-4
# How far rounding may move a logit, as a share of the largest one: a softmax turns the rounding
# of large logits, which random weights have, into another answer. Folding moved the logits of
# seven variants of 18 to 101 layers by at most 1.2e-6. In bfloat16, which itself moved them by
# 2e-3 to 2e-2, both sides are folded, and equal unless kernels sum in another order.
ROUNDING = {"float32": 1e-5, "bfloat16": 5e-3}
CHILD_SECONDS = 600
CHILD = Path(__file__).with_name("reload.py")
Answers = Mapping[str, np.ndarray]


def verify_saved_model(
    folder: Path, model: keras.Model, class_names: Sequence[str], *, precision: str = "float32"
) -> None:
    """Runs a SavedModel in a fresh process and compares it with the model in this one.

    The process imports TensorFlow and numpy, not this package. Each signature sees an empty
    batch and seeded pictures: noise and a gradient, as pixels and as PNG and JPEG files. In
    float32 the model itself is the reference, in bfloat16 its folded network.

    Args:
        folder: The SavedModel.
        model: What it was made from.
        class_names: One name a logit.
        precision: What the convolutions of the SavedModel compute in: "float32" or "bfloat16".

    Raises:
        ExportError: If the SavedModel cannot be loaded or run, or differs from the model.
    """
    recipe = record_of(model).recipe
    image, files = _pixels(recipe.image_size, len(recipe.mean)), _files(recipe.resize_to)
    network = _reference(model, precision)
    answers = _ask_child(folder, image, files)
    for signature in {name.split("/")[0] for name in answers}:
        seen = image if signature == "serve" else decode_pictures(tf.constant(files), recipe)
        # An accelerator would compute with fewer bits, and this process may fill its memory.
        with tf.device("/CPU:0"):
            logits = np.asarray(network(tf.cast(seen, tf.float32)))
        bounds = _bounds(logits, ROUNDING[precision])
        _compare(answers, signature, bounds, names=class_names)


def _reference(model: keras.Model, precision: str) -> Network:
    if precision != "float32":
        # As a graph: its optimizer decides where 16 bits are rounded to, as it does in a server.
        traced: Network = tf.function(folded_network(model, precision)[0], autograph=False)
        return traced

    def network(pixels: tf.Tensor) -> tf.Tensor:
        with computing_in(model, precision):
            return model(pixels, training=False)

    return network


def _bounds(logits: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the largest probabilities that rounding of the logits explains.

    If no logit moves by more than t, no logarithm of a probability moves by more than 2 t.
    """
    wide = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logarithms = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    moved = 2 * rounding * np.abs(logits).max()
    return np.exp(logarithms - moved), np.exp(np.minimum(logarithms + moved, 0))


def _pixels(size: int, channels: int) -> np.ndarray:
    """Returns noise and a gradient, uint8 `(2, size, size, channels)`."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, channels), np.uint8)
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    return np.stack([noise, np.broadcast_to(ramp[:, None, None], noise.shape)])


def _files(size: int) -> list[bytes]:
    """Returns the same as a wide PNG and a high JPEG, which need resizing and a crop."""
    noise, gradient = _pixels(2 * size, 3)
    return [
        tf.io.encode_png(noise[: size + size // 2]).numpy(),
        tf.io.encode_jpeg(gradient[:, : size + size // 3]).numpy(),
    ]


def _ask_child(folder: Path, image: np.ndarray, files: Sequence[bytes]) -> Answers:
    """Returns what the SavedModel answers in a fresh process, by "signature/count/output"."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        named = {f"file_{place}": data for place, data in enumerate(files)}
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in named.items()}
        np.savez(inputs, allow_pickle=False, image=image, **arrays)
        _run([sys.executable, "-P", str(CHILD), str(folder), str(inputs), str(outputs)])
        with np.load(outputs) as answers:
            return dict(answers)


def _run(command: Sequence[str]) -> None:
    # The child compares on the CPU: this process may hold all memory of the accelerator.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(f"no answer within {CHILD_SECONDS} s") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        raise _failure(f"exit status {done.returncode}, {last}")


def _failure(reason: str) -> ExportError:
    return ExportError(
        "An export must load and run in a fresh process without this package, and this one did "
        f"not ({reason}); it was not published."
    )


def _compare(
    answers: Answers,
    signature: str,
    bounds: tuple[np.ndarray, np.ndarray],
    *,
    names: Sequence[str],
) -> None:
    for count in (len(bounds[0]), 0):
        probabilities, index, label = (
            answers[f"{signature}/{count}/{output}"]
            for output in ("probabilities", "index", "label")
        )
        least, largest = (bound[:count] for bound in bounds)
        _check_probabilities(probabilities, least, largest, signature=signature)
        if [*index] != [*probabilities.argmax(-1)] or [*label] != [names[each] for each in index]:
            raise ExportError(
                "The `label` and `index` of an export must be those of the largest probability, "
                f"but `{signature}` gave label={[*label]} and index={[*index]}; it was not "
                "published."
            )


def _check_probabilities(
    found: np.ndarray, least: np.ndarray, largest: np.ndarray, *, signature: str
) -> None:
    if found.shape != least.shape:
        outcome = f"gave the shape {found.shape} instead of {least.shape}"
    else:
        difference = np.maximum(least - found, found - largest).max(initial=0)
        if difference <= TOLERANCE:  # false for NaN
            return
        outcome = f"differs by up to {difference:.3g}"
    raise ExportError(
        f"The probabilities of an export must equal those of its model within {TOLERANCE:g}, but "
        f"`{signature}` {outcome}; it was not published."
    )
