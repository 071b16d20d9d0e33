"""What the backbones of a search cost on this machine: measured once, and kept in its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_keras.errors import TuningError
from resnet_keras.precision import Precision, choose_precision
from resnet_keras.training.runs import write_json
from resnet_keras.tuning.backbones import Backbone
from resnet_keras.tuning.budget import Cost, Cut, measure
from resnet_keras.tuning.features import stages_of

COSTS = "costs.json"


def measure_backbones(
    folder: Path,
    backbones: Mapping[str, Backbone],
    *,
    stages: Sequence[int],
    image_size: int,
    precision: Precision,
    seed: int,
) -> None:
    """Measures backbones cut behind each stage, unless the folder has it from before.

    Args:
        folder: That of the search.
        backbones: By name.
        stages: The last stages that are searched, of those that a backbone has.
        image_size: Side of the pictures, in pixels.
        precision: What the convolutions compute in.
        seed: Of random weights.

    Raises:
        RunError: If the file cannot be written.
    """
    if (folder / COSTS).exists():
        return
    found: dict[str, dict[int, Any]] = {}
    for name, backbone in backbones.items():
        model = backbone.build(seed=seed, num_classes=None)
        dtype = choose_precision(precision, model).dtype
        chosen = [stage for stage in stages_of(model) if stage in stages]
        costs = measure(model, stages=chosen, image_size=image_size, dtype=dtype)
        found[name] = {stage: dataclasses.asdict(cost) for stage, cost in costs.items()}
    write_json(folder / COSTS, found)


def read_costs(folder: Path) -> dict[Cut, Cost]:
    """Returns what was measured, by name of the backbone and last stage.

    Raises:
        TuningError: If the file is missing or damaged.
    """
    path = folder / COSTS
    try:
        return {
            (name, int(stage)): Cost(**cost)
            for name, stages in json.loads(path.read_text(encoding="utf-8")).items()
            for stage, cost in stages.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TuningError(
            f"The file {path}, which says what the backbones cost, cannot be read: remove it to "
            f"have them measured again ({type(error).__name__})."
        ) from error
