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
from resnet_keras.layers import PREPROCESS, record_of

# Both sides run the same kernels on the CPU, summed in another order: graph against eager
# execution differed by less than 1e-6 in float32. A wrong weight, mean or crop differs by more.
TOLERANCE = 1e-4
# Networks that compute in 16 bits round wherever the graph's optimizer fuses or not.
HALF_TOLERANCE = 2e-2
CHILD_SECONDS = 600
CHILD = Path(__file__).with_name("reload.py")
Answers = Mapping[str, np.ndarray]


def verify_saved_model(folder: Path, model: keras.Model, class_names: Sequence[str]) -> None:
    """Runs a SavedModel in a fresh process and compares it with the model in this one.

    The process imports TensorFlow and numpy, not this package. Each signature sees an empty
    batch and seeded pictures: noise and a gradient, as pixels and as PNG and JPEG files.

    Args:
        folder: The SavedModel.
        model: What it was made from.
        class_names: One name a logit.

    Raises:
        ExportError: If the SavedModel cannot be loaded or run, or differs from the model.
    """
    recipe = record_of(model).recipe
    image, files = _pixels(recipe.image_size, len(recipe.mean)), _files(recipe.resize_to)
    half = model.get_layer(PREPROCESS).compute_dtype != "float32"
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    answers = _ask_child(folder, image, files)
    for signature in {name.split("/")[0] for name in answers}:
        seen = image if signature == "serve" else decode_pictures(tf.constant(files), recipe)
        expected = _expected(model, seen)
        _compare(answers, signature, expected, names=class_names, tolerance=tolerance)


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


def _expected(model: keras.Model, image: np.ndarray | tf.Tensor) -> np.ndarray:
    # An accelerator would compute with fewer bits, and its memory may be taken by this process.
    with tf.device("/CPU:0"):
        logits = model(tf.cast(image, tf.float32), training=False)
        return np.asarray(tf.nn.softmax(tf.cast(logits, tf.float32)))


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
    expected: np.ndarray,
    *,
    names: Sequence[str],
    tolerance: float,
) -> None:
    for count in (len(expected), 0):
        probabilities, index, label = (
            answers[f"{signature}/{count}/{output}"]
            for output in ("probabilities", "index", "label")
        )
        _check_probabilities(probabilities, expected[:count], tolerance, signature=signature)
        if [*index] != [*probabilities.argmax(-1)] or [*label] != [names[each] for each in index]:
            raise ExportError(
                "The `label` and `index` of an export must be those of the largest probability, "
                f"but `{signature}` gave label={[*label]} and index={[*index]}; it was not "
                "published."
            )


def _check_probabilities(
    found: np.ndarray, expected: np.ndarray, tolerance: float, *, signature: str
) -> None:
    if found.shape != expected.shape:
        outcome = f"gave the shape {found.shape} instead of {expected.shape}"
    else:
        difference = np.abs(found - expected).max(initial=0)
        if difference <= tolerance:  # false for NaN
            return
        outcome = f"differs by up to {difference:.3g}"
    raise ExportError(
        f"The probabilities of an export must equal those of its model within {tolerance:g}, but "
        f"`{signature}` {outcome}; it was not published."
    )
