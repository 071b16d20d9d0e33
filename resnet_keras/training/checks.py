"""What `fine_tune` refuses, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import keras
import tensorflow as tf

from resnet_keras.data import ImageData
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.training.keeper import MONITORS
from resnet_keras.training.optimizers import Phase
from resnet_keras.training.packing import Bits


def check_arguments(
    model: keras.Model,
    data: ImageData,
    phases: Sequence[Phase],
    *,
    views: int,
    monitor: str,
    cache_bits: int,
) -> None:
    """Refuses what `fine_tune` cannot train, before anything is read or written."""
    logits = model.output.shape[-1]
    if not any(layer.name == "logits" for layer in model.layers) or logits != len(data.class_names):
        raise ValueError(
            f"The model must have one logit for each of the {len(data.class_names)} classes "
            f"{list(data.class_names)[:10]}: build it with num_classes={len(data.class_names)}. "
            f"Received: a model with the output {tuple(model.output.shape)}"
        )
    if not phases:
        raise ValueError("`phases` must name at least one phase. Received: an empty sequence")
    if views < 1:
        raise ValueError(f"`views` must be at least 1. Received: views={views}")
    if cache_bits not in get_args(Bits):
        raise ValueError(f"`cache_bits` must be 8, 16 or 32. Received: cache_bits={cache_bits!r}")
    if monitor not in MONITORS:
        raise ValueError(f"`monitor` must be one of {MONITORS}. Received: monitor={monitor!r}")


def check_accumulation(phases: Sequence[Phase], replicas: Replicas) -> None:
    """Keras decides in the graph whether to update the weights, which replicas cannot follow."""
    if replicas.count > 1 and any(phase.accumulate > 1 for phase in phases):
        raise ValueError(
            "`accumulate` must be 1 where several devices of TensorFlow train together: choose the "
            f"batch size that is wanted, of which each of the {replicas.count} devices takes a "
            f"share. Received: accumulate={max(phase.accumulate for phase in phases)}"
        )


def compiled_by_xla(wanted: bool | None, replicas: Replicas) -> bool:
    """Returns whether XLA compiles the steps; refuses what the backend or devices cannot do."""
    if keras.backend.backend() == "jax":
        if wanted is False:
            raise ValueError(
                "`jit_compile` must be True or None on JAX, where XLA compiles every step. "
                "Received: jit_compile=False"
            )
        return True
    if wanted and replicas.count > 1:
        raise ValueError(
            "`jit_compile` must be False or None where several devices train together, which "
            f"TensorFlow does not compile. Received: jit_compile=True for {replicas.count} devices"
        )
    # XLA halves the speed of training on CPU.
    on_gpu = replicas.count == 1 and bool(tf.config.list_physical_devices("GPU"))
    return on_gpu if wanted is None else wanted
