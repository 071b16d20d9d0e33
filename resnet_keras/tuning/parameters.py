"""The hyperparameters of a search by name: what is tried of each, and what may be named."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_args

from resnet_keras.architectures import Activation, Normalization, Pooling
from resnet_keras.stages import BatchNormMode

Choices = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One hyperparameter.

    Args:
        tried: What is tried, the usual first; two ends of a range where `log` is true. Empty for
            what follows from the data.
        known: All that may be named; empty for numbers.
        kind: "int" or "float" for numbers.
        low: The least number that may be named.
        high: The largest one.
        log: Whether a range is searched by the logarithm.
    """

    tried: Choices = ()
    known: Choices = ()
    kind: type = float
    low: float = 0.0
    high: float = float("inf")
    log: bool = False

    @property
    def rule(self) -> str:
        """What a value must be, in words."""
        if self.known:
            return f"be one of {list(self.known)}"
        number = "an integer" if self.kind is int else "a number"
        ends = f"from {self.low:g} to {self.high:g}" if self.high < float("inf") else "of 1 or more"
        return f"be {number} {ends}"

    def holds(self, value: Any) -> bool:
        """Returns whether a value may be named."""
        if self.known:
            return value in self.known and isinstance(value, type(self.known[0]))
        number = isinstance(value, int if self.kind is int else (int, float))
        return number and not isinstance(value, bool) and self.low <= value <= self.high


def _one_of(*tried: Any, known: Choices = ()) -> Parameter:
    return Parameter(tried, known or tried)


# Tier 1: the features, the head on them, and how it trains; after that tier 2: fine-tuning.
PARAMETERS: dict[str, Parameter] = {
    "stage": Parameter((4, 3, 2, 1), kind=int, low=1, high=4),
    "pooling": _one_of(*get_args(Pooling)),
    "normalization": _one_of(*get_args(Normalization)),
    "dropout": Parameter((0.0, 0.2, 0.4), high=0.95),
    "hidden_layers": Parameter((0, 1, 2), kind=int, high=4),
    "units": Parameter((128, 64), kind=int, low=1),
    "activation": _one_of("relu", "silu", known=get_args(Activation)),
    "optimizer": _one_of("adamw", "sgd"),
    "learning_rate": Parameter(high=100.0, log=True),
    "weight_decay": Parameter((1e-5, 1e-2), high=1.0, log=True),
    "label_smoothing": Parameter((0.0, 0.1), high=0.95),
    "class_balance": _one_of(False, True),
    "views": Parameter(kind=int, low=1),
    # Stages that train behind the head, the last ones.
    "unfrozen": Parameter((1, 2, 0), kind=int, high=4),
    "batch_norm": _one_of("frozen", "affine", "train", known=get_args(BatchNormMode)),
    "fine_learning_rate": Parameter(high=100.0, log=True),
    "layer_decay": Parameter((1.0, 0.7, 0.4), low=0.01, high=1.0),
    "image_size": Parameter(kind=int, low=32),
}


def named_choices(named: Mapping[str, Any]) -> dict[str, Choices]:
    """Returns what a user named, one value or several, as choices.

    Args:
        named: By name, a value, which is fixed, or a list of those of which one is taken.

    Raises:
        ValueError: If a name is not known, or a value is out of range.

    Example:
        >>> named_choices({"pooling": "avg", "stage": [3, 4]})
        {'pooling': ('avg',), 'stage': (3, 4)}
    """
    choices = {
        name: tuple(value) if isinstance(value, list | tuple) else (value,)
        for name, value in named.items()
    }
    for name, values in choices.items():
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name, PARAMETERS, 1)
            raise ValueError(
                f"`space` must name some of {list(PARAMETERS)}. Received: {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        parameter = PARAMETERS[name]
        for value in values or (None,):
            if not parameter.holds(value):
                raise ValueError(
                    f"`space` must give {name!r} values that {parameter.rule}. Received: {value!r}"
                )
    return choices
