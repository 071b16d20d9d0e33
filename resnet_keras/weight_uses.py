"""Where weights meet pictures: noted, so that gradients can be summed in an order of one's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

# tf.distribute traces each replica in a thread of its own.
_thread = threading.local()


class Use(NamedTuple):
    """Outputs that were computed from inputs by weights, which have no gradient of their own.

    Args:
        variables: The weights.
        inputs: Tensors with the pictures as the first axis.
        outputs: A tensor with the pictures as the first axis.
        gradients: Returns those of the variables for some of the pictures, from their inputs and
            the gradient of their outputs.
    """

    variables: Sequence[Any]
    inputs: tuple[Any, ...]
    outputs: Any
    gradients: Callable[..., Sequence[Any]]


class Notes:
    """The uses of weights in one call of a network, in their order.

    Args:
        groups: Number of groups, of equal size and one after the other, that the pictures are in.
        watch: Takes the outputs of each use as soon as they are computed.
    """

    def __init__(self, groups: int, watch: Callable[[Any], None]) -> None:
        self.groups, self._watch = groups, watch
        self.uses: list[Use] = []

    def add(self, use: Use) -> None:
        """Takes a use of weights."""
        self._watch(use.outputs)
        self.uses.append(use)


@contextlib.contextmanager
def noting(notes: Notes | None) -> Iterator[None]:
    """Lets what uses weights inside the block say so, in this thread; None for nothing."""
    before = current_notes()
    _thread.notes = notes
    try:
        yield
    finally:
        _thread.notes = before


def current_notes() -> Notes | None:
    """Returns what takes uses of weights here; None where nobody asks."""
    return getattr(_thread, "notes", None)


@contextlib.contextmanager
def constant(variables: Sequence[Any]) -> Iterator[None]:
    """Makes variables constants inside the block: they have no gradient."""
    values = [(each, ops.stop_gradient(ops.convert_to_tensor(each))) for each in variables]
    with keras.StatelessScope(values):
        yield
