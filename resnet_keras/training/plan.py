"""What each phase trains, and whether the activations of its frozen part are cached, and where."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras

from resnet_keras.data import ImageData
from resnet_keras.data.memory import available_memory
from resnet_keras.stages import PARTS, Boundary, check_start, freeze, stage_summary, unfreeze
from resnet_keras.training.cache import activation_shape
from resnet_keras.training.optimizers import Phase

CacheMode = Literal["auto", "memory", "disk"]
# "auto" caches where it saves at least half of the multiply-adds of a forward pass ...
WORTHWHILE = 0.5
# ... and the activations take at most these shares of what is free.
MEMORY_SHARE = 0.4
DISK_SHARE = 0.5
FLOAT32_BYTES = 4


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase with its place in the run and the home of its cache.

    Args:
        index: Place in the run, from 0.
        phase: The phase.
        cache: Where the activations at the boundary are kept; None if they are not cached.
        cache_bytes: Size of the activations.
        frozen_share: Share of the multiply-adds of a forward pass that is frozen.
    """

    index: int
    phase: Phase
    cache: Literal["memory", "disk"] | None
    cache_bytes: int
    frozen_share: float

    @property
    def boundary(self) -> Boundary | None:
        """Where the cached part ends; None if nothing is cached."""
        return self.phase.boundary if self.cache else None

    def __str__(self) -> str:
        text = f"{self.phase.start} trains for {self.phase.epochs} epochs"
        if self.cache is None:
            return f"{text}, the whole network runs each step"
        where = f"cached in {'memory' if self.cache == 'memory' else 'a file'}"
        size = f"{self.cache_bytes / 1e6:,.1f} MB, {self.frozen_share:.0%} of the multiply-adds"
        return f"{text} from {self.phase.boundary} {where} ({size})"


def plan_phases(
    model: keras.Model,
    data: ImageData,
    phases: Sequence[Phase],
    *,
    views: int,
    cache: CacheMode | None,
    folder: Path,
) -> list[PhasePlan]:
    """Decides for each phase whether, and where, its frozen part is cached."""
    size = data.recipe.image_size
    macs = {row.stage: row.macs for row in stage_summary(model, size)}
    pictures = len(data.train) * views + (len(data.val) if data.val else 0)
    plans = []
    for index, phase in enumerate(phases):
        check_start(model, phase.start)
        frozen = frozen_parts(phase)
        share = sum(macs.get(part, 0) for part in frozen) / sum(macs.values())
        needed = 0
        if phase.boundary:
            shape = activation_shape(model, phase.boundary, size)
            needed = FLOAT32_BYTES * math.prod(shape) * pictures
        home = _home(cache, needed, share=share, folder=folder) if phase.boundary else None
        plans.append(PhasePlan(index, phase, home, needed, share))
    return plans


def frozen_parts(phase: Phase) -> tuple[str, ...]:
    """Returns the parts of the network that a phase does not train."""
    return () if phase.start == "all" else PARTS[: PARTS.index(phase.start)]


def _home(
    cache: CacheMode | None, needed: int, *, share: float, folder: Path
) -> Literal["memory", "disk"] | None:
    if cache != "auto":
        return cache
    if share < WORTHWHILE:
        return None
    if needed <= MEMORY_SHARE * available_memory():
        return "memory"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return "disk" if needed <= DISK_SHARE * shutil.disk_usage(existing).free else None


def set_trainability(model: keras.Model, phase: Phase) -> None:
    """Freezes what the phase does not train, statistics included, and unfreezes the rest."""
    if phase.start != "all":
        freeze(model, through="pool" if phase.start == "head" else frozen_parts(phase)[-1])  # type: ignore[arg-type]
    unfreeze(model, start=phase.start, batch_norm=phase.batch_norm)
