"""What phases cost: work in multiply-adds, seconds on this machine, and bytes of activations."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.distribution.compiled import compiled
from resnet_keras.stages import PARTS
from resnet_keras.training.optimizers import Phase

# A step costs a forward pass and, for weights and activations, two more of the same size.
TRAINING_PASSES = 3
# Whole networks reach this share of the speed of one convolution, whose operands stay in cache.
NETWORK_SHARE = 0.8
PROBE_SHAPE = (8, 28, 28, 128)
PROBE_SIDE = 3
PROBE_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Costs:
    """The work of a run, phase by phase, in multiply-adds of forward passes.

    What is cached for one phase serves the others with pictures of the same size: the shallowest
    boundary is computed from pixels, and deeper ones from it.

    Args:
        phases: The phases.
        sizes: Side of the training pictures of each, in pixels.
        macs: Multiply-adds of each part for one picture, by side.
        views: Cached versions of each picture.
        trained: Pictures for training.
        validated: Pictures for validation.
    """

    phases: Sequence[Phase]
    sizes: Sequence[int]
    macs: dict[int, dict[str, int]]
    views: int
    trained: int
    validated: int

    def prefix(self, index: int) -> int:
        """Returns the work of the frozen part of a phase for one picture."""
        macs = self.macs[self.sizes[index]]
        return sum(macs.get(part, 0) for part in frozen_parts(self.phases[index]))

    def epoch(self, index: int, *, cached: bool) -> int:
        """Returns the work of an epoch, validation included."""
        total, frozen = sum(self.macs[self.sizes[index]].values()), self.prefix(index)
        passed = 0 if cached else frozen
        training = self.trained * (TRAINING_PASSES * (total - frozen) + passed)
        return training + self.validated * (total - frozen + passed)

    def extraction(self, index: int, cached: Sequence[bool]) -> int:
        """Returns the work before the first epoch, given the phases that are cached."""
        mates = [
            other
            for other, size in enumerate(self.sizes)
            if cached[other] and size == self.sizes[index]
        ]
        if index not in mates:
            return 0
        work = self.prefix(index)
        if index != mates[0]:
            known = {min(map(self.prefix, mates)), *map(self.prefix, mates[: mates.index(index)])}
            work = 0 if work in known else work - min(known)
        return work * (self.views * self.trained + self.validated)

    def total(self, cached: Sequence[bool]) -> int:
        """Returns the work of the whole run, given the phases that are cached."""
        return sum(
            self.extraction(index, cached) + phase.epochs * self.epoch(index, cached=cached[index])
            for index, phase in enumerate(self.phases)
        )


def frozen_parts(phase: Phase) -> tuple[str, ...]:
    """Returns the parts of the network that a phase does not train."""
    return () if phase.start == "all" else PARTS[: PARTS.index(phase.start)]


@functools.cache
def seconds_per_mac(dtype: str) -> float:
    """Returns about how long a multiply-add of a network takes here, by timing a convolution."""
    layer = keras.layers.Conv2D(
        PROBE_SHAPE[-1], PROBE_SIDE, padding="same", use_bias=False, dtype=dtype, name="probe",
        kernel_initializer=keras.initializers.RandomUniform(seed=0),
    )  # fmt: skip
    layer.build(PROBE_SHAPE)
    convolve = compiled(
        lambda pictures: keras.ops.sum(layer(pictures), axis=(1, 2, 3)),
        tf.TensorSpec(PROBE_SHAPE, dtype),
        variables=layer.variables,
    )
    pictures = keras.ops.cast(np.random.default_rng(0).random(PROBE_SHAPE, np.float32), dtype)
    np.asarray(convolve(pictures))
    seconds = []
    for _ in range(PROBE_ROUNDS):
        started = time.perf_counter()
        np.asarray(convolve(pictures))
        seconds.append(time.perf_counter() - started)
    macs = math.prod(PROBE_SHAPE) * PROBE_SIDE**2 * PROBE_SHAPE[-1]
    return float(min(seconds) / macs / NETWORK_SHARE)
