"""Functions compiled by the backend: `tf.function` on TensorFlow, `jax.jit` on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# XLA compiles each shape for seconds: a short batch is filled up to a known one, unless that would
# be more than so many times its size.
FILLING = 8
# XLA's kernels for CPUs round otherwise where a matrix has fewer than 32 rows; so many pictures
# have 32 positions at 2 x 2, in the last stage at 64 pixels.
FEWEST = 8


def compiled(
    work: Callable[[Any], Any], rows: tf.TensorSpec, *, variables: Sequence[Any]
) -> Callable[[Any], Any]:
    """Returns the function compiled; it sees later changes of the variables.

    On JAX the devices that hold the variables share out the rows.

    Args:
        work: Returns a row for each row.
        rows: What it takes, `(None, ...)`.
        variables: All the variables that it reads, at least one; JAX has to be told.
    """
    if keras.backend.backend() == "jax":
        return _OnJax(work, variables)
    function = tf.function(work, input_signature=[rows], autograph=False)
    # TensorFlow warns of functions that are traced when they are called, but not of these.
    function.get_concrete_function()
    traced: Callable[[Any], Any] = function
    return traced


def computed_by(variable: Any) -> dict[str, Any]:
    """Returns what decides the last bits of what is compiled, besides the function and its inputs.

    Args:
        variable: One of those that it reads.
    """
    if keras.backend.backend() == "jax":
        import jax

        devices = variable.value.devices()
        kind = next(iter(devices)).platform.upper()
        return {"jax": jax.__version__, "device": kind, "devices": len(devices)}
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return {"tensorflow": tf.__version__, "device": device}


class _OnJax:
    """A function of rows through `jax.jit`, which would keep what it reads as constants.

    Args:
        work: Returns a row for each row.
        variables: What it reads.
    """

    def __init__(self, work: Callable[[Any], Any], variables: Sequence[Any]) -> None:
        import jax

        self._variables, self._sizes = list(variables), set[int]()

        def run(values: list[Any], rows: Any) -> Any:
            with keras.StatelessScope(zip(self._variables, values, strict=True)):
                return work(rows)

        self._run = jax.jit(run)

    def __call__(self, rows: Any) -> Any:
        values = [variable.value for variable in self._variables]
        rows, count = np.asarray(rows), len(rows)
        found = self._run(values, self._placed(rows, values[0].sharding))
        return found if len(found) == count else np.asarray(found)[:count]

    def _placed(self, rows: np.ndarray, sharding: Any) -> Any:
        """Returns the rows on the devices of the variables, filled up with zeros."""
        import jax

        devices = len(sharding.device_set)
        size = shared_size(len(rows), devices)
        size = min((n for n in self._sizes if size <= n <= FILLING * size), default=size)
        self._sizes.add(size)
        rows = filled(rows, size)
        if devices == 1:
            return rows
        axes = jax.sharding.PartitionSpec(sharding.mesh.axis_names)
        return jax.device_put(rows, jax.sharding.NamedSharding(sharding.mesh, axes))


def shared_size(count: int, devices: int) -> int:
    """Returns how many rows so many become where devices of JAX have equal shares of them.

    On CPUs each has enough of them to compute the bits that one device computes.
    """
    import jax

    fewest = FEWEST if devices > 1 and jax.default_backend() == "cpu" else 1
    return max(-(-count // devices), fewest) * devices


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Returns so many rows: those that are there, and zeros."""
    if len(rows) == size:
        return rows
    missing = np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, missing])
