"""Precision: what this hardware computes fast in, and models that compute in it for a while."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import keras

from resnet_keras.layers import Preprocess, is_head

Precision = Literal["auto", "float32", "bfloat16"]
# Kind ("GPU" or "TPU"), name, and compute capability of a GPU.
Accelerator = tuple[str, str, tuple[int, ...]]
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
# Instructions that multiply bfloat16 numbers, as Linux names them.
CPU_FLAGS = ("amx_bf16", "avx512_bf16")
# Ampere, the first NVIDIA generation with bfloat16 units.
GPU_CAPABILITY = (8, 0)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The precision that convolutions run in, and why.

    Args:
        dtype: "float32", "bfloat16", or "float16" where a model was built so.
        reason: What decided it.
    """

    dtype: str
    reason: str

    def __str__(self) -> str:
        return f"{self.dtype} ({self.reason})"


def choose_precision(wanted: Precision = "auto", model: keras.Model | None = None) -> Choice:
    """Returns the precision to compute in; weights, logits and losses are float32 in any.

    Args:
        wanted: "float32", "bfloat16", or "auto": bfloat16 where the hardware multiplies such
            numbers faster, else float32.
        model: A model; "auto" keeps its precision if it was built in another than float32.

    Returns:
        The precision and the reason for it.

    Raises:
        ValueError: If the precision is unknown.

    Example:
        >>> str(choose_precision("float32"))
        'float32 (as asked for)'
    """
    if wanted not in get_args(Precision):
        raise ValueError(
            f"`precision` must be one of {list(get_args(Precision))}. Received: {wanted!r}"
        )
    if wanted != "auto":
        return Choice(wanted, "as asked for")
    if model is not None and (built := compute_dtype(model)) != "float32":
        return Choice(built, "as the model was built")
    return _by_accelerator() or _by_cpu()


def compute_dtype(model: keras.Model) -> str:
    """Returns what the convolutions of the model compute in."""
    return next(str(layer.compute_dtype) for layer in model.layers if _has_choice(layer))


@contextlib.contextmanager
def computing_in(model: keras.Model, dtype: str) -> Iterator[None]:
    """Lets the convolutions compute in a precision inside the block; the weights stay float32.

    What is traced inside the block keeps its precision. Pixels become floats, and features
    become logits, in float32 in any case.
    """
    before = [(layer, layer.dtype_policy) for layer in model.layers if _has_choice(layer)]
    try:
        for layer, _ in before:
            layer.dtype_policy = POLICIES[dtype]
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def _has_choice(layer: keras.layers.Layer) -> bool:
    fixed = isinstance(layer, keras.layers.InputLayer | Preprocess)
    return not fixed and not is_head(layer.name)


def _by_accelerator() -> Choice | None:
    for kind, name, capability in _accelerators():
        if kind == "TPU":
            return Choice("bfloat16", "a TPU multiplies in it")
        if capability >= GPU_CAPABILITY:
            return Choice("bfloat16", f"{name} has units for it")
        return Choice("float32", f"{name} has no units for bfloat16")
    return None


def _accelerators() -> list[Accelerator]:
    """Returns kind, name and compute capability of each accelerator that the backend sees."""
    readers = {"tensorflow": _seen_by_tensorflow, "jax": _seen_by_jax}
    return readers.get(keras.backend.backend(), list)()


def _seen_by_tensorflow() -> list[Accelerator]:
    import tensorflow as tf

    found: list[Accelerator] = [("TPU", "TPU", ()) for _ in tf.config.list_physical_devices("TPU")]
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name", "the GPU")
        found.append(("GPU", name, details.get("compute_capability", ())))
    return found


def _seen_by_jax() -> list[Accelerator]:
    import jax

    found: list[Accelerator] = []
    for device in jax.devices():
        capability = getattr(device, "compute_capability", None) or "0"
        if device.platform in ("gpu", "tpu"):
            numbers = tuple(map(int, str(capability).split(".")))
            found.append((device.platform.upper(), device.device_kind, numbers))
    return found


def _by_cpu() -> Choice:
    if keras.backend.backend() != "tensorflow":
        return Choice("float32", "bfloat16 on CPUs is used with TensorFlow only")
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return Choice("float32", "TF_ENABLE_ONEDNN_OPTS=0 turns off the kernels for bfloat16")
    flags: list[str] = []
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    for flag in CPU_FLAGS:
        if flag in flags:
            return Choice("bfloat16", f"the CPU has {flag}")
    return Choice("float32", f"the CPU has neither {' nor '.join(CPU_FLAGS)}")
