"""What each phase trains, and whether the activations of its frozen part are cached, and where."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras

from resnet_keras.data import ImageData
from resnet_keras.data.memory import available_memory
from resnet_keras.distribution.workers import ALONE, Workers
from resnet_keras.stage_table import stage_summary
from resnet_keras.stages import Boundary, check_start, freeze, unfreeze
from resnet_keras.training.cache import activation_bytes
from resnet_keras.training.costs import Costs, frozen_parts, seconds_per_mac
from resnet_keras.training.optimizers import Phase
from resnet_keras.training.packing import Bits

CacheMode = Literal["auto", "memory", "disk"]
Home = Literal["memory", "disk"]
# The activations take at most these shares of what is free.
MEMORY_SHARE = 0.4
DISK_SHARE = 0.5
# Share of the work of the phases that are cached that must be saved: fresh augmentation in each
# epoch is worth the rest.
WORTHWHILE = 0.2


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """How activations are kept.

    Args:
        mode: "memory", "disk", "auto" (where they fit, if that saves work), or None for not at all.
        views: Versions of each picture.
        bits: Bits of a value: 8, 16 or 32.
        folder: Folder for those on disk.
        shared: Whether the folder outlives the run, for others to use.
        dtype: What the frozen part computes in.
    """

    mode: CacheMode | None
    views: int
    bits: Bits
    folder: Path
    shared: bool
    dtype: str


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase with its place in the run and the home of its cache.

    Args:
        index: Place in the run, from 0.
        phase: The phase.
        image_size: Side of the training pictures, in pixels.
        cache: Where the activations at the boundary are kept; None if they are not cached.
        cache_bytes: Size of the activations.
        extraction: Seconds that computing them may take.
        epoch: Seconds that an epoch may take.
    """

    index: int
    phase: Phase
    image_size: int
    cache: Home | None
    cache_bytes: int
    extraction: float
    epoch: float

    @property
    def boundary(self) -> Boundary | None:
        """Where the cached part ends; None if nothing is cached."""
        return self.phase.boundary if self.cache else None

    def __str__(self) -> str:
        text = f"{self.phase.start} trains for {self.phase.epochs} epochs"
        later = _time(self.epoch)
        if self.cache is None:
            return f"{text} through the whole network, an epoch about {later}"
        where = "in memory" if self.cache == "memory" else "on disk"
        return (
            f"{text} from {self.phase.boundary} cached {where}: {_size(self.cache_bytes)}, first "
            f"epoch about {_time(self.extraction + self.epoch)}, then {later}"
        )


def plan_phases(
    model: keras.Model,
    data: ImageData,
    phases: Sequence[Phase],
    *,
    options: CacheOptions,
    workers: Workers = ALONE,
) -> list[PhasePlan]:
    """Decides for each phase whether, and where, its frozen part is cached.

    Of all ways to cache some phases and not others that fit, the one with the least work is
    taken; work is counted in multiply-adds, so that the choice does not depend on the load of the
    machine, and shown in seconds, which a short measurement estimates. Several processes do as
    the chief decides.
    """
    for phase in phases:
        check_start(model, phase.start)
    sizes = [_image_size(model, phase, data) for phase in phases]
    macs = {
        size: {row.stage: row.macs for row in stage_summary(model, size)} for size in set(sizes)
    }
    validated = len(data.val) if data.val else 0
    costs = Costs(phases, sizes, macs, options.views, len(data.train), validated)
    pictures = options.views * len(data.train) + validated
    room = [
        pictures * activation_bytes(model, phase.boundary, size, bits=options.bits)
        if phase.boundary
        else 0
        for phase, size in zip(phases, sizes, strict=True)
    ]
    decided = workers.lead(
        lambda: json.dumps(_choose(costs, room, options, workers=workers)).encode()
    )
    cached, home = json.loads(decided)
    rate = seconds_per_mac(options.dtype) / workers.count
    return [
        PhasePlan(
            index,
            phase,
            sizes[index],
            home if cached[index] else None,
            room[index],
            rate * costs.extraction(index, cached),
            rate * costs.epoch(index, cached=cached[index]),
        )
        for index, phase in enumerate(phases)
    ]


def _image_size(model: keras.Model, phase: Phase, data: ImageData) -> int:
    full = data.recipe.image_size
    size = phase.image_size or full
    if size > full or (size != full and model.input.shape[1] is not None):
        raise ValueError(
            f"`image_size` of a phase must be at most that of the data, {full}, and another than "
            "that needs a model for pictures of any size. Received: image_size="
            f"{phase.image_size} for a model with the input {tuple(model.input.shape)}"
        )
    return size


def _choose(
    costs: Costs, room: Sequence[int], options: CacheOptions, *, workers: Workers
) -> tuple[Sequence[bool], Home | None]:
    """Returns which phases are cached, and where."""
    possible = [phase.boundary is not None for phase in costs.phases]
    if options.mode is None or not any(possible):
        return [False] * len(possible), None
    if options.mode != "auto":
        return possible, options.mode
    choices = itertools.product(*[(False, True) if each else (False,) for each in possible])
    fitting = [
        choice
        for choice in choices
        if _saves(choice, costs) and _home(choice, room, options, workers=workers)
    ]
    best = min(fitting, key=costs.total)
    return best, _home(best, room, options, workers=workers)


def _saves(cached: Sequence[bool], costs: Costs) -> bool:
    """Returns whether caching these phases saves enough of their work; none at all always does."""
    live = costs.total([False] * len(cached))
    own = sum(
        phase.epochs * costs.epoch(index, cached=False)
        for index, phase in enumerate(costs.phases)
        if cached[index]
    )
    return live - costs.total(cached) >= WORTHWHILE * own


def _home(
    cached: Sequence[bool], room: Sequence[int], options: CacheOptions, *, workers: Workers
) -> Home | None:
    """Returns where the activations of the phases fit together; None if nowhere."""
    needed = sum(size for size, kept in zip(room, cached, strict=True) if kept)
    # Each process keeps its own share in memory; on disk they all may share a folder.
    if not options.shared and needed <= MEMORY_SHARE * available_memory() * workers.count:
        return "memory"
    folder = options.folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return "disk" if needed <= DISK_SHARE * shutil.disk_usage(existing).free else None


def set_trainability(model: keras.Model, phase: Phase) -> None:
    """Freezes what the phase does not train, statistics included, and unfreezes the rest."""
    if phase.start != "all":
        freeze(model, through="pool" if phase.start == "head" else frozen_parts(phase)[-1])  # type: ignore[arg-type]
    unfreeze(model, start=phase.start, batch_norm=phase.batch_norm)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
