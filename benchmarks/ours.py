"""The same work with the public names of `resnet_keras`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from benchmarks.stock import LEARNING_RATE, Case
from resnet_keras import Augmentation, Phase, Recipe, fine_tune, load_images

Precision = Literal["auto", "float32", "bfloat16"]
# The same parts train as in the stock program, except for biases: only v1 convolutions have any.
PARTS: dict[Case, dict[str, Any]] = {
    "head": {"start": "head"},
    "last_stage": {"start": "stage4", "batch_norm": "frozen"},
    "full": {"start": "all", "batch_norm": "train"},
}


def in_memory(pixels: np.ndarray, labels: np.ndarray, *, batch_size: int) -> Any:
    """Returns the pictures as data for training alone, neither resized nor cropped."""
    recipe = Recipe(image_size=pixels.shape[1], crop=1.0)
    return load_images(
        pixels, labels=labels, recipe=recipe, batch_size=batch_size, validation=0, test=0
    )


def fine_tuning(
    model: keras.Model,
    data: Any,
    case: Case,
    *,
    epochs: int,
    precision: Precision = "auto",
) -> Callable[[], Sequence[float]]:
    """Returns the function that fine-tunes in a new run and returns the seconds of its epochs."""
    phase = Phase(
        **PARTS[case],
        epochs=epochs,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        warmup=0,
        weight_decay=0,
    )

    def run() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            result = fine_tune(
                model,
                data,
                run_dir=Path(folder) / "run",
                phases=[phase],
                augmentation=Augmentation(flip="none"),
                precision=precision,
                quiet=True,
            )
        return [float(row["seconds"]) for row in result.history]

    return run
