"""The space of a user's own search, in the names that keras-tuner's oracles can keep apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from resnet_keras.training.optimizers import LEARNING_RATES
from resnet_keras.tuning.space import FINE_RATES, Declared


class Scoped:
    """Hyperparameters of keras-tuner whose names tell what they depend on.

    Keras-tuner's oracles lose the value of a name that is declared in two conditional scopes.
    """

    def __init__(self, hp: Any) -> None:
        self._hp = hp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hp, name)

    @contextlib.contextmanager
    def conditional_scope(self, parent: str, values: Sequence[Any]) -> Iterator[None]:
        """Makes what is declared in the block depend on a value of the parent."""
        named = isinstance(values[0], str)
        with contextlib.ExitStack() as scopes:
            scopes.enter_context(self._hp.conditional_scope(parent, list(values)))
            if named:
                scopes.enter_context(self._hp.name_scope(values[0]))
            yield


def declare_unfrozen(declared: Declared) -> None:
    """Declares what trains behind the head, and how.

    Args:
        declared: What declares by the names of this module.
    """
    declared.choice("unfrozen")
    some = [number for number in declared.of("unfrozen") if number]
    if not some:
        return
    with declared.hp.conditional_scope("unfrozen", some):
        declared.choice("batch_norm")
        declared.choice("layer_decay")
    # Keras-tuner cannot make it depend on both.
    for optimizer in declared.of("optimizer"):
        with declared.hp.conditional_scope("optimizer", [optimizer]):
            usual = LEARNING_RATES[optimizer]["stages"]
            declared.rate("fine_learning_rate", FINE_RATES[optimizer], usual)
