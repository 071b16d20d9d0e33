"""The end of a search: the winner and its test, `best.yaml`, the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import yaml

from resnet_keras.evaluation import Evaluation
from resnet_keras.training.runs import write_text
from resnet_keras.tuning.course import Course
from resnet_keras.tuning.fine_search import head_of, run_folder
from resnet_keras.tuning.hparams import write_hparams
from resnet_keras.tuning.networks import HEADS, NETWORKS
from resnet_keras.tuning.report import write_search_report
from resnet_keras.tuning.trials import TrialResult, best_first

WINNER = "winner"
BEST = "best.yaml"


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """What a search ended with.

    Args:
        model: The network of the winner, with the best weights of its run.
        run_dir: The folder of the search; the run of the winner is in `winner` there.
        results: All trials of both tiers, in the order in which they were tried.
        winner: The best of them.
        options: What `best.yaml` says: options of `resnet-keras finetune`.
        test: Evaluation of the test part by the winner; None if there is no such part.
    """

    model: keras.Model
    run_dir: Path
    results: list[TrialResult]
    winner: TrialResult
    options: dict[str, Any]
    test: Evaluation | None


def finish_search(
    course: Course, results: Sequence[TrialResult], source_options: Mapping[str, Any]
) -> TuneResult:
    """Trains the winner, unless tier 2 did, and writes what the folder promises.

    Args:
        course: The search.
        results: All of its trials.
        source_options: What loads the pictures, for `best.yaml`.
    """
    objective, folder = course.training.objective, course.folder
    winner = best_first(results, objective)[0]
    head = head_of(winner, folder / HEADS)
    values = winner.values if winner.tier == "fine-tune" else {}
    home, trained = folder / WINNER, run_folder(folder / NETWORKS, winner.name)
    if values and trained.exists() and not home.exists():
        trained.rename(home)
    run = course.training.run(head, values, home, test=True)
    options = {**source_options, **course.training.options(head, values)}
    write_text(folder / BEST, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
    write_search_report(
        folder,
        results=results,
        objective=objective,
        title=folder.name,
        facts=_facts(course),
        winner=winner,
        test=run.test,
        default=results[0],
        max_latency_ms=course.budget.max_latency_ms,
    )
    write_hparams(folder, results)
    return TuneResult(run.model, folder, list(results), winner, options, run.test)


def _facts(course: Course) -> dict[str, str]:
    data = course.training.data
    return {
        "Backbones": ", ".join(course.training.backbones),
        "Pictures": (
            f"{len(data.train)} for training, {len(data.val or ())} for validation, "
            f"{data.recipe.image_size} pixels"
        ),
        "Algorithm": course.algorithm,
        "Epochs": f"{course.training.head_epochs} of the head, {course.training.epochs} behind it",
        "Data fingerprint": data.fingerprint,
        "Seed": str(course.training.seed),
    }
