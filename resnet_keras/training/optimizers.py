"""One phase of training: what trains, for how long, and by which optimizer."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import keras

from resnet_keras.stages import STARTS, BatchNormMode, Boundary, Start

# A random head needs larger steps than stages that are already trained.
LEARNING_RATES = {"adamw": {"head": 1e-3, "stages": 5e-4}, "sgd": {"head": 0.1, "stages": 0.01}}
SGD_MOMENTUM = 0.9
BEFORE: dict[Start, Boundary | None] = {
    "all": None,
    "stage1": "stem",
    "stage2": "stage1",
    "stage3": "stage2",
    "stage4": "stage3",
    "head": "pool",
}
# Decay pulls towards zero, which means nothing for what scales and shifts.
NO_DECAY = ["gamma", "beta", "bias"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One setting of trainability, with one compile, one fit and one new optimizer.

    Args:
        start: The first part that trains: "head", "stage4" to "stage1", or "all". What comes
            before is frozen, batch-norm statistics included.
        epochs: Passes over the training pictures.
        optimizer: "adamw" or "sgd" (Nesterov momentum 0.9).
        learning_rate: Peak of the learning rate; None for 1e-3 (head) or 5e-4 (stages) with
            AdamW, and 0.1 or 0.01 with SGD.
        weight_decay: Decoupled weight decay of the kernels; gamma, beta and bias have none.
        warmup: Share of the steps in which the learning rate rises linearly from 0, in [0, 1);
            it falls to 0 along a cosine afterwards.
        batch_norm: What batch norm does where the network trains: "frozen" (nothing moves),
            "affine" (gamma and beta train, the statistics stay) or "train".
        label_smoothing: Share of each label spread over all classes, in [0, 1).

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> Phase("head", epochs=3)
        Phase(start='head', epochs=3, optimizer='adamw', learning_rate=None, weight_decay=0.0001, \
warmup=0.1, batch_norm='frozen', label_smoothing=0.0)
    """

    start: Start
    epochs: int = 5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.1
    batch_norm: BatchNormMode = "frozen"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        rules = {
            "start": (self.start in STARTS, f"be one of {list(STARTS)}"),
            "epochs": (self.epochs >= 1, "be at least 1"),
            "optimizer": (self.optimizer in LEARNING_RATES, f"be in {list(LEARNING_RATES)}"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "be positive"),
            "weight_decay": (self.weight_decay >= 0, "not be negative"),
            "warmup": (0 <= self.warmup < 1, "lie in [0, 1)"),
            "batch_norm": (
                self.batch_norm in ("frozen", "affine", "train"),
                "be 'frozen', 'affine' or 'train'",
            ),
            "label_smoothing": (0 <= self.label_smoothing < 1, "lie in [0, 1)"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"`{name}` must {rule}. Received: {name}={getattr(self, name)!r}")

    @property
    def boundary(self) -> Boundary | None:
        """Where frozen meets trainable; None if everything trains."""
        return BEFORE[self.start]

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up."""
        part = "head" if self.start == "head" else "stages"
        return self.learning_rate or LEARNING_RATES[self.optimizer][part]


def make_optimizer(phase: Phase, steps: int) -> Any:
    """Returns a new optimizer for a phase of `steps` steps: warm-up, then cosine to 0."""
    warmup = round(phase.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else phase.peak_learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=phase.peak_learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    if phase.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            schedule, momentum=SGD_MOMENTUM, nesterov=True, weight_decay=phase.weight_decay or None
        )
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=phase.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=NO_DECAY)
    return optimizer
