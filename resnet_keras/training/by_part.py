"""Optimizers whose learning rate depends on the part of the network that a weight belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from resnet_keras.layers import PACKAGE
from resnet_keras.stages import PARTS, part_named
from resnet_keras.training import one_pass

# Decay pulls towards zero, which means nothing for what scales and shifts.
NO_DECAY = ["gamma", "beta", "bias"]


class _ByPart:
    """Scales the learning rate of each weight in the update itself.

    Adam divides by the size of the gradients, so scaled gradients would change nothing there.
    The decoupled weight decay, which is a multiple of the learning rate, is scaled alike.

    Args:
        learning_rate: That of the head, or its schedule.
        layer_decay: Factor for each part further from the head.
        decay: Decoupled weight decay of the kernels.
        **options: Those of the Keras optimizer.
    """

    def __init__(
        self, learning_rate: Any, *, layer_decay: float, decay: float, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)  # type: ignore[call-arg]
        self._layer_decay, self._decay = layer_decay, decay

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the variables of the optimizer, and finds the factor of each weight."""
        super().build(variables)  # type: ignore[misc]
        self._factors = tuple(rate_factors(variables, self._layer_decay))
        self._decays = tuple(
            0.0 if variable.name in NO_DECAY else self._decay for variable in variables
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = keras.ops.cast(learning_rate, variable.dtype) * self._factors[index]
        if decay := self._decays[index]:
            self.assign_sub(variable, variable * (rate * decay))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, as a saved model needs them."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, "layer_decay": self._layer_decay, "decay": self._decay}


@keras.saving.register_keras_serializable(PACKAGE)
class SGDByPart(_ByPart, one_pass.SGD):
    """SGD with a learning rate by part."""


@keras.saving.register_keras_serializable(PACKAGE)
class AdamByPart(_ByPart, one_pass.Adam):
    """AdamW with a learning rate, and a weight decay, by part."""


BY_PART = {"sgd": SGDByPart, "adamw": AdamByPart}


def rate_factors(variables: Sequence[Any], layer_decay: float) -> list[float]:
    """Returns the factor on the learning rate of each weight of a network that trains.

    Args:
        variables: All weights that train, in any order; the head is among them.
        layer_decay: Factor for each part further from the head.
    """
    parts = [part_named(variable.path.split("/")[-2]) for variable in variables]
    trained = [part for part in reversed(PARTS) if part in parts]
    return [layer_decay ** trained.index(part) for part in parts]
