"""One phase of training: what trains, for how long, and by which optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import keras
import numpy as np

from resnet_keras.stages import STARTS, BatchNormMode, Boundary, Start
from resnet_keras.training.by_part import BY_PART
from resnet_keras.training.by_part import NO_DECAY as NO_DECAY
from resnet_keras.training.one_pass import ONE_PASS

# A random head needs larger steps than stages that are already trained. On solar cells and digits
# Adam was no better at 5e-4 with frozen statistics; by those of the batch it lost what the head had
# learned.
LEARNING_RATES = {
    "adamw": {"head": 1e-3, "stages": 2e-4},
    "sgd": {"head": 0.1, "stages": 0.01},
}
SGD_MOMENTUM = 0.9
# Keras has 1e-7: a weight whose gradient is little more than rounding then moves by whole steps,
# and the order in which replicas are summed decides where to.
ADAM_EPSILON = 1e-5
OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"epsilon": ADAM_EPSILON},
    "sgd": {"momentum": SGD_MOMENTUM, "nesterov": True},
}
BEFORE: dict[Start, Boundary | None] = {
    "all": None,
    "stage1": "stem",
    "stage2": "stage1",
    "stage3": "stage2",
    "stage4": "stage3",
    "head": "pool",
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """One setting of trainability, with one compile, one fit and one new optimizer.

    Args:
        start: The first part that trains: "head", "stage4" to "stage1", or "all". What comes
            before is frozen, batch-norm statistics included.
        epochs: Passes over the training pictures.
        optimizer: "adamw" (epsilon 1e-5, where Keras has 1e-7) or "sgd" (Nesterov momentum 0.9).
        learning_rate: Peak of the learning rate; None for 1e-3 (head) or 2e-4 (stages) with AdamW,
            and 0.1 or 0.01 with SGD.
        reference_batch: Batch size that the learning rate is meant for: the peak is multiplied by
            the ratio of the batch size, that of all devices together, to it, or, with AdamW, by
            the square root of the ratio. None takes the rate as it is.
        weight_decay: Decoupled weight decay of the kernels; gamma, beta and bias have none.
        warmup: Share of the steps in which the learning rate rises linearly from 0, in [0, 1);
            it falls to 0 along a cosine afterwards.
        batch_norm: What batch norm does where the network trains: "frozen" (nothing moves),
            "affine" (gamma and beta train, the statistics stay), "train" (each replica by the
            statistics of its own part of a batch) or "synchronized" (by those of the whole
            batch; the same on one device). Before the first step with one of these two, the
            moving statistics become those of 512 training pictures, and gamma and beta what
            keeps the network as it was, so that the loss goes on where the head was left.
        label_smoothing: Share of each label spread over all classes, in [0, 1).
        ema: Share that a running average of the weights keeps in each step, in [0, 1), 0.99 for
            instance; what is validated, and kept, is then the average. 0 for none.
        accumulate: Batches whose gradients are averaged before the weights move; 1 where several
            devices of TensorFlow train together.
        image_size: Side that the training pictures are shrunk to, in pixels, at most that of the
            data; None for that of the data. Validation always sees the size of the data. Phases
            of growing size are progressive resizing (fast.ai 2018, DAWNBench).
        class_balance: Whether each class counts the same in the loss: that of a picture is
            multiplied by pictures / (classes * pictures of its class), over the training part.
            The training loss that is reported is this one; that of the validation part is plain.
        layer_decay: Factor on the learning rate, and so on the weight decay, for each part
            further from the head, in (0, 1]: 1 for the head, `layer_decay` for the last stage,
            its square for the one before, down to the stem (Clark et al. 2020, arXiv 2003.10555;
            deviation: by stages, where they count the layers of a transformer).

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> Phase("head", epochs=3)
        Phase(start='head', epochs=3, optimizer='adamw', learning_rate=None, \
reference_batch=None, weight_decay=0.0001, warmup=0.1, batch_norm='frozen', \
label_smoothing=0.0, ema=0.0, accumulate=1, image_size=None, class_balance=False, layer_decay=1.0)
    """

    start: Start
    epochs: int = 5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    reference_batch: int | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.1
    batch_norm: BatchNormMode = "frozen"
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    image_size: int | None = None
    class_balance: bool = False
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            "start": (self.start in STARTS, f"be one of {list(STARTS)}"),
            "epochs": (self.epochs >= 1, "be at least 1"),
            "optimizer": (self.optimizer in LEARNING_RATES, f"be in {list(LEARNING_RATES)}"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "be positive"),
            "reference_batch": (
                self.reference_batch is None or self.reference_batch >= 1,
                "be at least 1",
            ),
            "weight_decay": (self.weight_decay >= 0, "not be negative"),
            "warmup": (0 <= self.warmup < 1, "lie in [0, 1)"),
            "batch_norm": (
                self.batch_norm in get_args(BatchNormMode),
                f"be one of {list(get_args(BatchNormMode))}",
            ),
            "label_smoothing": (0 <= self.label_smoothing < 1, "lie in [0, 1)"),
            "ema": (0 <= self.ema < 1, "lie in [0, 1)"),
            "accumulate": (self.accumulate >= 1, "be at least 1"),
            "image_size": (self.image_size is None or self.image_size >= 32, "be at least 32"),
            "class_balance": (isinstance(self.class_balance, bool), "be True or False"),
            "layer_decay": (0 < self.layer_decay <= 1, "lie in (0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"`{name}` must {rule}. Received: {name}={getattr(self, name)!r}")

    @property
    def boundary(self) -> Boundary | None:
        """Where frozen meets trainable; None if everything trains."""
        return BEFORE[self.start]

    def peak_learning_rate(self, batch_size: int) -> float:
        """Returns the learning rate after the warm-up, for pictures per update of the weights.

        Linear for SGD (Goyal et al. 2017, arXiv 1706.02677, section 2.1), by the square root for
        Adam (Malladi et al. 2022, arXiv 2205.10287, section 3).
        """
        part = "head" if self.start == "head" else "stages"
        rate = self.learning_rate or LEARNING_RATES[self.optimizer][part]
        ratio = batch_size / (self.reference_batch or batch_size)
        return rate * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))


class _ByUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule by updates of the weights, where Keras counts accumulated batches too."""

    def __init__(self, schedule: Any, batches: int) -> None:
        self._schedule, self._batches = schedule, batches

    def __call__(self, step: Any) -> Any:
        return self._schedule(keras.ops.floor_divide(step, self._batches))


def make_optimizer(phase: Phase, steps: int, batch_size: int) -> Any:
    """Returns a new optimizer for a phase of `steps` steps: warm-up, then cosine to 0."""
    peak = phase.peak_learning_rate(batch_size * phase.accumulate)
    updates = steps // phase.accumulate
    warmup = round(phase.warmup * updates)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else peak,
        decay_steps=max(1, updates - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    options = {**OPTIONS[phase.optimizer], "weight_decay": phase.weight_decay}
    if phase.accumulate > 1:
        schedule = _ByUpdate(schedule, phase.accumulate)
        options["gradient_accumulation_steps"] = phase.accumulate
    if phase.ema:
        options |= {"use_ema": True, "ema_momentum": phase.ema}
    if phase.optimizer == "sgd":
        options["weight_decay"] = phase.weight_decay or None
    if phase.layer_decay < 1:
        options["weight_decay"] = None  # by part as well, which Keras cannot do
        return BY_PART[phase.optimizer](
            schedule, layer_decay=phase.layer_decay, decay=phase.weight_decay, **options
        )
    optimizer = ONE_PASS[phase.optimizer](schedule, **options)
    optimizer.exclude_from_weight_decay(var_names=NO_DECAY)
    return optimizer


@contextlib.contextmanager
def averaged(trainer: keras.Model, *, keep: bool) -> Iterator[None]:
    """Puts the running averages, if there are any, in the place of the weights inside the block.

    Args:
        trainer: A compiled model.
        keep: Whether they stay there.
    """
    averages = _averages(trainer.optimizer)
    variables = trainer.trainable_variables if averages else []
    weights = [np.array(variable) for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average)
    yield
    if not keep:
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)


def _averages(optimizer: Any) -> list[Any]:
    """Returns the running averages that Keras keeps, in the order of the weights."""
    if not optimizer.use_ema:
        return []
    return [variable for variable in optimizer.variables if variable.name.endswith("_average")]
