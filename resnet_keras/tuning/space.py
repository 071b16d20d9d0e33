"""What is searched, as hyperparameters of keras-tuner, and what their values mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_keras.training.optimizers import LEARNING_RATES
from resnet_keras.training.schedule import Schedule
from resnet_keras.tuning.parameters import PARAMETERS, Choices

Values = Mapping[str, Any]
# By optimizer; around those of `Phase`.
HEAD_RATES = {"adamw": (1e-4, 1e-2), "sgd": (1e-2, 1.0)}
FINE_RATES = {"adamw": (5e-5, 2e-3), "sgd": (1e-3, 5e-2)}


@dataclasses.dataclass(frozen=True)
class Head:
    """What the values of a tier-1 trial mean.

    Args:
        values: Those of the active hyperparameters, as `declare_head` declares them.
    """

    values: Values

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        layers = self.values["hidden_layers"]
        return (self.values["units"],) * layers if layers else ()

    def network(self) -> dict[str, Any]:
        """Returns the arguments of `build_resnet` that make the head and its backbone."""
        return {
            "last_stage": self.values["stage"],
            "pooling": self.values["pooling"],
            "head": self.hidden,
            "head_normalization": self.values["normalization"],
            "head_activation": self.values.get("activation", "relu"),
            "dropout": self.values["dropout"],
        }

    def training(self) -> dict[str, Any]:
        """Returns the arguments of `Schedule` that say how it trains."""
        return {
            "optimizer": self.values["optimizer"],
            "head_learning_rate": self.values["learning_rate"],
            "weight_decay": self.values["weight_decay"],
            "label_smoothing": self.values["label_smoothing"],
            "class_balance": self.values["class_balance"],
        }


def fine_schedule(head: Head, values: Values, *, head_epochs: int, epochs: int) -> Schedule:
    """Returns how a tier-2 trial trains: its head first, then as its own values say.

    Args:
        head: The head, of tier 1.
        values: Those of the tier-2 trial; without "unfrozen", or where it is 0, the head alone
            trains.
        head_epochs: Epochs of the head.
        epochs: Epochs of what follows.
    """
    if not values.get("unfrozen"):
        return Schedule(head_epochs=head_epochs, epochs=0, **head.training())
    first = max(1, head.values["stage"] + 1 - values["unfrozen"])
    return Schedule(
        head_epochs=head_epochs,
        epochs=epochs,
        start=f"stage{first}",  # type: ignore[arg-type]
        learning_rate=values["fine_learning_rate"],
        batch_norm=values["batch_norm"],
        layer_decay=values["layer_decay"],
        small_size=values["image_size"] or None,
        **head.training(),
    )


class Declared:
    """Hyperparameters as they are declared: what the user named in place of what is tried."""

    def __init__(self, hp: Any, named: Mapping[str, Choices]) -> None:
        self.hp, self._named = hp, named

    def of(self, name: str, tried: Sequence[Any] = ()) -> Choices:
        """Returns the choices of a hyperparameter."""
        return self._named.get(name, tuple(tried) or PARAMETERS[name].tried)

    def choice(self, name: str, tried: Sequence[Any] = ()) -> Any:
        """Declares a choice; returns its value."""
        choices = list(self.of(name, tried))
        if len(choices) == 1:
            return self.hp.Fixed(name, choices[0])
        # Among the choices of keras-tuner, truth values become integers.
        if isinstance(choices[0], bool):
            return self.hp.Boolean(name, default=choices[0])
        return self.hp.Choice(name, choices, default=choices[0])

    def rate(self, name: str, ends: Sequence[float], default: float) -> None:
        """Declares a range by the logarithm, unless the user named values."""
        if name in self._named:
            self.choice(name)
        else:
            self.hp.Float(name, *ends, sampling="log", default=default)


def declare_head(
    hp: Any, *, stages: Mapping[str, Sequence[int]], views: int, named: Mapping[str, Choices]
) -> None:
    """Declares the hyperparameters of tier 1.

    Args:
        hp: Those of keras-tuner; gets a value for each that is active.
        stages: The stages that the features of each backbone may be taken behind, by its name,
            the last one first.
        views: Versions of a picture that there are.
        named: What the user named.
    """
    declared = Declared(hp, named)
    hp.Choice("backbone", list(stages), default=next(iter(stages)))
    for name, found in stages.items():
        with hp.conditional_scope("backbone", [name]):
            hp.Choice("stage", list(found), default=found[0])
    for name in ("pooling", "normalization", "dropout", "hidden_layers"):
        declared.choice(name)
    if deep := [number for number in declared.of("hidden_layers") if number]:
        with hp.conditional_scope("hidden_layers", deep):
            declared.choice("units")
            declared.choice("activation")
    declared.choice("optimizer")
    for optimizer in declared.of("optimizer"):
        with hp.conditional_scope("optimizer", [optimizer]):
            rate = LEARNING_RATES[optimizer]["head"]
            declared.rate("learning_rate", HEAD_RATES[optimizer], rate)
    declared.rate("weight_decay", PARAMETERS["weight_decay"].tried, 1e-4)
    declared.choice("label_smoothing")
    declared.choice("class_balance")
    declared.choice("views", sorted({1, views}, reverse=True))


def declare_fine(
    hp: Any,
    *,
    heads: Mapping[str, Head],
    image_sizes: Sequence[int],
    named: Mapping[str, Choices],
) -> None:
    """Declares the hyperparameters of tier 2.

    Args:
        hp: Those of keras-tuner; gets a value for each that is active.
        heads: The best of tier 1, by the name of the trial, the best first.
        image_sizes: Sides of the pictures in the first half of the epochs, 0 for no other.
        named: What the user named.
    """
    declared = Declared(hp, named)
    hp.Choice("head", list(heads), default=next(iter(heads)))
    declared.choice("unfrozen")
    for optimizer, ends in FINE_RATES.items():
        own = [name for name, head in heads.items() if head.values["optimizer"] == optimizer]
        if own:
            with hp.conditional_scope("head", own):
                declared.rate("fine_learning_rate", ends, LEARNING_RATES[optimizer]["stages"])
    if some := [number for number in declared.of("unfrozen") if number]:
        with hp.conditional_scope("unfrozen", some):
            declared.choice("batch_norm")
            declared.choice("layer_decay")
            declared.choice("image_size", image_sizes)
