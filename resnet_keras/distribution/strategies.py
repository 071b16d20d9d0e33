"""Which devices and processes train together: one strategy a process.

On TensorFlow it is one of `tf.distribute`, on JAX one of `keras.distribution`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import keras
import tensorflow as tf

from resnet_keras.distribution.cluster import Cluster
from resnet_keras.distribution.rendezvous import meet
from resnet_keras.distribution.tree_sum import tree_sum
from resnet_keras.errors import WorkersError

Strategy: TypeAlias = tf.distribute.Strategy | keras.distribution.DataParallel
StrategyName = Literal["auto", "none", "mirrored", "multiworker", "tpu"]
# What a TPU VM, and a machine with a TPU on the network, have in their environment.
TPU_VARIABLES = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES")
JOIN_SECONDS = 300.0


class _Made(NamedTuple):
    name: StrategyName
    strategy: Strategy


if keras.backend.backend() == "jax":
    # TensorFlow only reads pictures then, and would take all memory of the GPUs for itself.
    with contextlib.suppress(RuntimeError):  # it has begun already
        tf.config.set_visible_devices([], "GPU")

# Two strategies over the same devices in one process crash each other's collectives.
_made: list[_Made] = []


def get_strategy(
    name: StrategyName = "auto", *, join_seconds: float = JOIN_SECONDS, quiet: bool = False
) -> Strategy:
    """Returns the strategy of this process, made at the first call, and says which it is.

    Call it before anything else that uses TensorFlow: workers can only meet at its start.

    On JAX, "mirrored" and "tpu" give a `keras.distribution.DataParallel` over all devices, on
    which Keras also puts the variables that are made afterwards. One program works on the arrays
    of all devices: batch norm then takes the statistics of the whole batch, whether it is
    "synchronized" or not.

    Args:
        name: "none" for one device; "mirrored" for all GPUs of this process, or all of its
            logical CPUs where there is no GPU; "multiworker" for the processes that TF_CONFIG
            names; "tpu"; or "auto": the strategy in whose scope this is called, "multiworker" if
            TF_CONFIG names several processes, "tpu" if the environment names one, "mirrored" if
            there are several devices, else "none".
        join_seconds: How long the workers wait for each other.
        quiet: Whether nothing is said.

    Returns:
        The strategy; the same one at every call.

    Raises:
        ValueError: If there is no such strategy, the backend does not have it, or another one
            was made before.
        WorkersError: If TF_CONFIG is wrong, a worker does not come, or there is no TPU.

    Example:
        >>> get_strategy("none", quiet=True).num_replicas_in_sync
        1
    """
    if name not in get_args(StrategyName):
        names = list(get_args(StrategyName))
        raise ValueError(f"`strategy` must be one of {names}. Received: {name!r}")
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "auto" and (current := _current()) is not None:
        return current
    if not _made:
        wanted, reason = (name, "as asked for") if name != "auto" else _choice()
        if wanted == "none":
            return tf.distribute.get_strategy()
        _made.append(_Made(wanted, _MAKERS[wanted](join_seconds)))
        if not quiet:
            print(f"strategy: {describe(_made[0].strategy)} ({reason})", file=sys.stderr)
    made = _made[0]
    if name not in ("auto", made.name):
        raise ValueError(
            f"A process has one strategy, and this one began with {made.name!r}: start another "
            f"process. Received: strategy={name!r}"
        )
    return made.strategy


def describe(strategy: Strategy) -> str:
    """Returns how many replicas a strategy has, and in how many processes, in words."""
    if isinstance(strategy, keras.distribution.DataParallel):
        replicas = strategy.num_model_replicas
    else:
        replicas = strategy.num_replicas_in_sync
    cluster = cluster_of(strategy)
    if cluster is not None:
        own = "the chief" if cluster.is_chief else f"worker {cluster.index}"
        return f"{cluster.count} workers with {replicas} devices, this is {own}"
    kind = type(strategy).__name__.removesuffix("V2").removesuffix("Strategy")
    return "one device" if replicas == 1 else f"{replicas} devices in this process, {kind}"


def cluster_of(strategy: Strategy) -> Cluster | None:
    """Returns the workers of a strategy; None if it has but one process."""
    multiworker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return Cluster.from_environment() if multiworker else None


def _current() -> Strategy | None:
    """Returns the strategy that the program has chosen itself, if there is one."""
    if _on_jax():
        chosen = keras.distribution.distribution()
        return chosen if isinstance(chosen, keras.distribution.DataParallel) else None
    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None


def _choice() -> tuple[StrategyName, str]:
    if (cluster := Cluster.from_environment()) is not None:
        return "multiworker", f"TF_CONFIG names {cluster.count} workers"
    if _on_jax():
        if _jax_platform() == "tpu":
            return "tpu", "JAX finds one"
    else:
        for variable in TPU_VARIABLES:
            if os.environ.get(variable):
                return "tpu", f"{variable} is set"
    if len(devices := _local_devices()) > 1:
        return "mirrored", f"this process has {len(devices)} devices"
    return "none", "this process has one device"


def _on_jax() -> bool:
    return bool(keras.backend.backend() == "jax")


def _jax_platform() -> str:
    """Returns what JAX computes on: "tpu", "gpu" or "cpu"."""
    name: str = keras.distribution.list_devices()[0]
    return name.partition(":")[0]


def _local_devices() -> list[str]:
    """Returns the accelerators, or the logical CPUs where there is none."""
    if _on_jax():
        return list(keras.distribution.list_devices())
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def _mirrored(join_seconds: float) -> Strategy:
    if _on_jax():
        return _data_parallel()
    sums = None
    if not tf.config.list_physical_devices("GPU"):
        # Else four CPUs would add up each part of a tensor in another order.
        sums = tf.distribute.ReductionToOneDevice(accumulation_fn=tree_sum)
    return tf.distribute.MirroredStrategy(_local_devices(), cross_device_ops=sums)


def _data_parallel() -> keras.distribution.DataParallel:
    distribution = keras.distribution.DataParallel()
    keras.distribution.set_distribution(distribution)
    return distribution


def _multiworker(join_seconds: float) -> Strategy:
    if _on_jax():
        raise ValueError(
            "The strategy multiworker runs on TensorFlow alone: set KERAS_BACKEND=tensorflow, or "
            "train in one process. Received: multiworker, or several workers in TF_CONFIG, on JAX"
        )
    cluster = Cluster.from_environment()
    if cluster is None:
        raise WorkersError(
            "The strategy multiworker must find its workers in TF_CONFIG, which is not set or "
            "names one alone: set it for each process, or start them by `resnet-keras launch`."
        )
    meet(cluster, seconds=join_seconds)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise WorkersError(
            "Workers can only meet before anything else uses TensorFlow: call get_strategy first "
            f"({error})."
        ) from error


def _tpu(join_seconds: float) -> Strategy:
    if _on_jax():
        if (platform := _jax_platform()) != "tpu":
            raise WorkersError(
                f"The strategy tpu needs a TPU, but JAX finds devices of the kind {platform!r} "
                "only: choose another strategy, or install JAX for TPUs."
            )
        return _data_parallel()
    address = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise WorkersError(
            f"No TPU answers at {address!r}: choose another strategy, or name the TPU in TPU_NAME "
            f"({str(error).splitlines()[0]})."
        ) from error


_MAKERS: dict[str, Callable[[float], Strategy]] = {
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}
