"""What a network costs on this machine: backbones cut behind each stage, heads, and budgets."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from resnet_keras.distribution.compiled import compiled
from resnet_keras.errors import TuningError
from resnet_keras.folding import Folded
from resnet_keras.stage_table import stage_summary

# Name of a backbone, and the last of its stages that is kept.
Cut = tuple[str, int]
# The calls of a measurement take about so long in all, but there are enough for a median.
MEASURED_SECONDS = 2.0
LEAST_ROUNDS = 7
# The first calls compile and allocate.
WARM_UP = 3
# Numbers that each normalization keeps per input: scale and offset, and the moving statistics.
NORM_PARAMS = {"none": 0, "batch": 4, "layer": 2}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a backbone that ends at some stage costs, without or with a head.

    Args:
        latency_ms: Milliseconds for one picture on this machine.
        macs: Multiply-adds of the convolutions for one picture.
        params: Number of weights, moving statistics included.
        channels: Channels of the features.
    """

    latency_ms: float
    macs: int
    params: int
    channels: int

    def with_head(self, values: Mapping[str, Any], *, classes: int) -> Cost:
        """Returns the cost with the weights of a head, whose time cannot be measured.

        Args:
            values: Hyperparameters of the head, see `head_params`.
            classes: Number of classes.
        """
        head = head_params(values, channels=self.channels, classes=classes)
        return dataclasses.replace(self, params=self.params + head)


def head_params(values: Mapping[str, Any], *, channels: int, classes: int) -> int:
    """Returns the number of weights of a head, moving statistics included.

    Args:
        values: Hyperparameters: "pooling", "hidden_layers", "normalization", and "units" where
            there are hidden layers.
        channels: Channels of the features.
        classes: Number of classes.

    Example:
        >>> values = {"pooling": "avg", "hidden_layers": 0, "normalization": "none"}
        >>> head_params(values, channels=512, classes=5)
        2565
    """
    hidden = [values["units"]] * values["hidden_layers"] if values["hidden_layers"] else []
    widths = [channels * (2 if values["pooling"] == "both" else 1), *hidden, classes]
    norm = NORM_PARAMS[values["normalization"]]
    return sum(
        inputs * norm + (inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths)
    )


def measure(
    model: keras.Model, *, stages: Sequence[int], image_size: int, dtype: str
) -> dict[int, Cost]:
    """Measures a backbone cut behind each of the stages, in turn, for some seconds.

    It runs as an exported network does: folded, compiled, its weights constants.

    Args:
        model: A model of `build_resnet`.
        stages: The last stages to try, 1 to 4.
        image_size: Side of the picture, in pixels.
        dtype: What the convolutions compute in: "float32", "bfloat16" or "float16".

    Returns:
        The cost by last stage.

    Raises:
        ValueError: If the model has no such stage.

    Example:
        >>> from resnet_keras import build_resnet
        >>> model = build_resnet(18, num_classes=None, width=0.125)
        >>> costs = measure(model, stages=(3, 4), image_size=32, dtype="float32")
        >>> costs[3].channels, costs[4].channels, costs[3].params < costs[4].params
        (32, 64, True)
    """
    shape = (1, image_size, image_size, model.input.shape[-1])
    programs = {stage: _program(model, stage, shape, dtype=dtype) for stage in stages}
    seconds = _in_turn(programs, np.random.default_rng(0).uniform(0, 255, shape).astype("float32"))
    rows = {row.stage: row for row in stage_summary(model, image_size)}
    costs = {}
    for stage in stages:
        parts = ["stem", *(f"stage{number}" for number in range(1, stage + 1))]
        costs[stage] = Cost(
            latency_ms=1000 * statistics.median(seconds[stage]),
            macs=sum(rows[part].macs for part in parts),
            params=sum(rows[part].parameters for part in parts),
            channels=rows[parts[-1]].shape[-1],
        )
    return costs


def _program(
    model: keras.Model, stage: int, shape: tuple[int, ...], *, dtype: str
) -> Callable[[Any], Any]:
    """Returns the function from a picture to pooled features of a stage, compiled and warm."""
    folded = Folded(model, through=f"stage{stage}", dtype=dtype)  # type: ignore[arg-type]
    # As arrays they become constants of the graph, whose order oneDNN keeps between the calls.
    held = {name: np.asarray(tensor) for name, tensor in folded.tensors().items()}

    def pooled(pixels: Any) -> Any:
        tensors = {name: ops.convert_to_tensor(array) for name, array in held.items()}
        return ops.mean(folded(pixels, tensors), axis=(1, 2))

    program = compiled(pooled, tf.TensorSpec(shape, "float32"), variables=model.variables)
    for _ in range(WARM_UP):
        np.asarray(program(np.zeros(shape, "float32")))
    return program


def _in_turn(
    programs: Mapping[int, Callable[[Any], Any]], picture: np.ndarray
) -> dict[int, list[float]]:
    """Returns the seconds of each call; a round calls all, so that noise hits all alike."""
    seconds: dict[int, list[float]] = {stage: [] for stage in programs}
    end, rounds = time.perf_counter() + MEASURED_SECONDS, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for stage, program in programs.items():
            started = time.perf_counter()
            np.asarray(program(picture))
            seconds[stage].append(time.perf_counter() - started)
        rounds += 1
    return seconds


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the network of a search may cost.

    Args:
        max_latency_ms: Milliseconds for one picture on this machine; None for no limit.
        max_params: Number of weights, those of the head included; None for no limit.

    Raises:
        ValueError: If a limit is not positive.

    Example:
        >>> Budget(max_latency_ms=10).allows(latency_ms=8.5, params=11_000_000)
        True
    """

    max_latency_ms: float | None = None
    max_params: int | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None and not 0 < limit < float("inf"):
                raise ValueError(
                    f"`{name}` must be a positive number, or None for no limit. "
                    f"Received: {name}={limit!r}"
                )

    def allows(self, latency_ms: float, params: int) -> bool:
        """Returns whether a network is within the budget."""
        return self._excess(latency_ms, params) <= 1

    def fitting(self, costs: Mapping[Cut, Cost]) -> dict[Cut, Cost]:
        """Returns the networks that are within the budget.

        Args:
            costs: Those of each network, its smallest head included.

        Raises:
            TuningError: If none is; it says what the closest one would need.
        """
        fits = {
            cut: cost
            for cut, cost in costs.items()
            if self.allows(latency_ms=cost.latency_ms, params=cost.params)
        }
        if not fits:
            raise TuningError(self._nothing_fits(costs))
        return fits

    def _excess(self, latency_ms: float, params: int) -> float:
        """Returns by what factor a network is over its worst limit; at most 1 if it fits."""
        pairs = ((latency_ms, self.max_latency_ms), (params, self.max_params))
        return max((found / limit for found, limit in pairs if limit is not None), default=0.0)

    def sentence(self, cost: Cost) -> str:
        """Returns why a network is not within the budget."""
        return (
            f"The network needs {cost.latency_ms:.3g} ms for a picture and {cost.params:,} "
            f"parameters, over the budget of {self._limits()}."
        )

    def _limits(self) -> str:
        limits = []
        if self.max_latency_ms is not None:
            limits.append(f"{self.max_latency_ms:g} ms")
        if self.max_params is not None:
            limits.append(f"{self.max_params:,} parameters")
        return " and ".join(limits)

    def _nothing_fits(self, costs: Mapping[Cut, Cost]) -> str:
        (name, stage), least = min(
            costs.items(), key=lambda item: self._excess(item[1].latency_ms, item[1].params)
        )
        return (
            f"No network is within the budget of {self._limits()}: the closest, {name} cut "
            f"behind stage{stage}, needs {least.latency_ms:.3g} ms and {least.params:,} "
            "parameters; raise the budget, or name a smaller backbone or an earlier stage."
        )
