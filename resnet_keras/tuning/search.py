"""`tune`: heads on cached features first, then the best few through `fine_tune`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from resnet_keras.data import Augmentation, ImageData
from resnet_keras.precision import Precision
from resnet_keras.training import runs
from resnet_keras.training.display import Display
from resnet_keras.training.phases import default_views
from resnet_keras.tuning.backbones import Source, backbones_of
from resnet_keras.tuning.budget import Budget
from resnet_keras.tuning.chief import Role
from resnet_keras.tuning.course import Course
from resnet_keras.tuning.fine_search import Training
from resnet_keras.tuning.finish import TuneResult, finish_search
from resnet_keras.tuning.head_search import Pictures
from resnet_keras.tuning.oracles import Algorithm
from resnet_keras.tuning.parameters import named_choices
from resnet_keras.tuning.trials import OBJECTIVES, Objective

FEATURES = "features"


def tune(
    data: ImageData,
    *,
    run_dir: str | Path,
    depths: Sequence[int] | None = None,
    weights: Source | Sequence[Source] = "imagenet",
    space: Mapping[str, Any] | None = None,
    max_trials: int = 100,
    epochs: int = 20,
    algorithm: Algorithm = "random",
    objective: Objective = "accuracy",
    finalists: int = 8,
    repeats: int = 5,
    fine_tunes: int = 6,
    fine_epochs: int = 10,
    fine_repeats: int = 2,
    max_latency_ms: float | None = None,
    max_params: int | None = None,
    augmentation: Augmentation | None = None,
    views: int | None = None,
    precision: Precision = "auto",
    cache_dir: str | Path | None = None,
    source_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> TuneResult | None:
    """Searches depth, head and fine-tuning on one's own pictures.

    Every view of each picture goes through each backbone once. Tier 1 trains heads on the pooled
    features of all stages, which takes seconds; the best are trained again with other seeds and
    splits, to tell luck from merit. Tier 2 fine-tunes the best of these, and the best networks
    again in the same splits. The test part is seen once, by the winner. Both tiers are searches of
    keras-tuner, in the folder; where its environment variables say so, this process is their chief
    or one of their workers.

    Args:
        data: What `load_images` returned, with a validation part.
        run_dir: The folder of the search; must be new or empty, or hold a search to resume.
        depths: Those of "imagenet" and of random weights; None for 18, 34 and 50.
        weights: One or more of "imagenet", a name of `list_weights()`, a file, a run folder, or
            None for random weights.
        space: By name of a hyperparameter, a value that is fixed, or a list of those that are
            tried; all others are searched.
        max_trials: Trials of tier 1.
        epochs: Epochs of a head, the most where the algorithm is Hyperband.
        algorithm: "random", "hyperband" or "bayesian".
        objective: "accuracy", "balanced_accuracy", "f1" or "loss" of the validation part.
        finalists: Heads that are trained again, the usual head besides them.
        repeats: How often.
        fine_tunes: Trials of tier 2; with 0 the best head is trained alone.
        fine_epochs: Epochs of tier 2 after those of the head.
        fine_repeats: How often the two best of tier 2 are trained again.
        max_latency_ms: Milliseconds that a picture may take on this machine, one at a time.
        max_params: Number of weights that the network may have.
        augmentation: How pictures are varied; None for horizontal flips alone.
        views: Versions of each picture; None as in `fine_tune`.
        precision: What the convolutions compute in, as in `fine_tune`.
        cache_dir: Folder in which features and activations are kept for other searches; None for
            the folder of the search, until it ends.
        source_options: Options of `resnet-keras finetune` that load the same pictures, for
            `best.yaml`.
        seed: Of trials, weights, order and augmentation.
        resume: Whether a search that is in the folder goes on.
        force: Whether a search that is in the folder is deleted first.
        quiet: Whether nothing is shown meanwhile.

    Returns:
        The winner, trained, and all trials; None in a worker, whose chief has them.

    Raises:
        ValueError: If an argument is out of range.
        TuningError: If nothing is within the budget, or no trial succeeded.
        RunError: If the folder cannot be used.
        WorkersError: If chief and workers lose each other.

    Example:
        >>> found = tune(  # doctest: +SKIP
        ...     load_images("photos/"), run_dir="runs/search", max_latency_ms=30,
        ...     space={"pooling": "avg", "stage": [3, 4]},
        ... )
    """
    augmentation = augmentation or Augmentation()
    _check(data, locals())
    named = named_choices(space or {})
    backbones = backbones_of(depths, weights)
    folder = Path(run_dir)
    kept = Path(cache_dir) if cache_dir else folder / FEATURES
    pictures = Pictures(
        data, backbones, augmentation,
        views=default_views(augmentation) if views is None else views,
        precision=precision, folder=kept, seed=seed, display=Display(quiet=quiet),
    )  # fmt: skip
    training = Training(
        data, backbones, augmentation, precision, objective,
        head_epochs=epochs, epochs=fine_epochs, cache_dir=kept, seed=seed,
    )  # fmt: skip
    course = Course(
        folder, pictures, training, Budget(max_latency_ms, max_params), named,
        algorithm=algorithm, max_trials=max_trials, finalists=finalists, repeats=repeats,
        fine_tunes=fine_tunes, fine_repeats=fine_repeats,
    )  # fmt: skip
    if Role.from_environment().is_worker:
        course.work()
        return None
    with runs.only_one(folder):
        runs.open_run(folder, course.config(), resume=resume, force=force)
        runs.write_json(folder / "environment.json", runs.environment(seed, data.fingerprint))
        result = finish_search(course, course.run(), source_options or {})
        if cache_dir is None:
            shutil.rmtree(folder / FEATURES, ignore_errors=True)
        runs.write_manifest(folder)
    return result


def _check(data: ImageData, given: Mapping[str, Any]) -> None:
    if data.val is None:
        raise ValueError("`data` must have a validation part: load it with validation=0.15.")
    if given["objective"] not in OBJECTIVES:
        raise ValueError(
            f"`objective` must be one of {list(OBJECTIVES)}. Received: {given['objective']!r}"
        )
    if given["algorithm"] not in get_args(Algorithm):
        raise ValueError(
            f"`algorithm` must be one of {list(get_args(Algorithm))}. "
            f"Received: {given['algorithm']!r}"
        )
    least = {"max_trials": 1, "epochs": 1, "finalists": 1, "repeats": 0, "fine_tunes": 0}
    least |= {"fine_epochs": 2, "fine_repeats": 0, "seed": 0}
    for name, low in least.items():
        if not isinstance(given[name], int) or given[name] < low:
            raise ValueError(
                f"`{name}` must be an integer of at least {low}. Received: {given[name]!r}"
            )
