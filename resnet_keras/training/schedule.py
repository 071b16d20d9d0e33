"""A schedule of two parts: the head first, then the last stages with it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from resnet_keras.stages import BatchNormMode, Start
from resnet_keras.training.optimizers import Phase


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The head first, then the last stages: a random head would send them large gradients.

    What is not described here is what `Phase` says, and holds for both parts.

    Args:
        head_epochs: Epochs in which the head alone trains; 0 for none.
        epochs: Epochs of `start` and what follows it; 0 for the head alone.
        start: First stage that trains after the head: "stage4" to "stage1", or "all".
        optimizer: "adamw" or "sgd".
        head_learning_rate: Peak while the head trains alone; None for that of `Phase`.
        learning_rate: Peak afterwards; None for that of `Phase`.
        weight_decay: Decoupled weight decay of the kernels.
        batch_norm: What batch norm does in the stages that train.
        label_smoothing: Share of each label spread over all classes, in [0, 1).
        ema: Share that a running average of the weights keeps in each step, in [0, 1).
        accumulate: Batches whose gradients are averaged before the weights move.
        small_size: Side of the pictures in the first half of `epochs`, in pixels; None for that
            of the data. Needs two epochs or more.
        class_balance: Whether each class counts the same in the loss.
        layer_decay: Factor on the learning rate for each part further from the head, in (0, 1].

    Raises:
        ValueError: If a value is out of its range, or nothing would train.

    Example:
        >>> [(phase.start, phase.epochs) for phase in Schedule(head_epochs=2, epochs=3).phases()]
        [('head', 2), ('stage4', 3)]
    """

    head_epochs: int = 5
    epochs: int = 10
    start: Start = "stage4"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    head_learning_rate: float | None = None
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    batch_norm: BatchNormMode = "frozen"
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    small_size: int | None = None
    class_balance: bool = False
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("head_epochs", "epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {getattr(self, name)}")
        if not self.head_epochs and not self.epochs:
            raise ValueError(
                "`head_epochs` or `epochs` must be at least 1, or nothing trains. Received: "
                "head_epochs=0, epochs=0"
            )
        if self.start == "head":
            raise ValueError(
                "`start` must be a stage or 'all': the head trains first in any case, and alone "
                "with epochs=0. Received: start='head'"
            )
        if self.small_size is not None and self.epochs < 2:
            raise ValueError(
                "`small_size` needs `epochs` of 2 or more, the first half of which sees the small "
                f"pictures. Received: small_size={self.small_size}, epochs={self.epochs}"
            )
        # A wrong value is refused at once.
        self._head()
        dataclasses.replace(self._stages(max(1, self.epochs)), image_size=self.small_size)

    def phases(self) -> tuple[Phase, ...]:
        """Returns the phases, in order."""
        small = self.epochs // 2 if self.small_size else 0
        found = [self._head()] if self.head_epochs else []
        if small:
            found.append(dataclasses.replace(self._stages(small), image_size=self.small_size))
        if self.epochs:
            found.append(self._stages(self.epochs - small))
        return tuple(found)

    def _head(self) -> Phase:
        return dataclasses.replace(
            self._stages(max(1, self.head_epochs)),
            start="head",
            learning_rate=self.head_learning_rate,
            batch_norm="frozen",
            layer_decay=1.0,
        )

    def _stages(self, epochs: int) -> Phase:
        return Phase(
            self.start,
            epochs=epochs,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_norm=self.batch_norm,
            label_smoothing=self.label_smoothing,
            ema=self.ema,
            accumulate=self.accumulate,
            class_balance=self.class_balance,
            layer_decay=self.layer_decay,
        )
