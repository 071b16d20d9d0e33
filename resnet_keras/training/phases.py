"""`fine_tune`: phase after phase, from pictures or from cached activations, into a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import keras
import tensorflow as tf

from resnet_keras.data import Augmentation, ImageData
from resnet_keras.data.augment import Flip
from resnet_keras.distribution.placement import placed, returned
from resnet_keras.distribution.replicas import replicas_of
from resnet_keras.distribution.strategies import (
    Strategy,
    StrategyName,
    describe,
    get_strategy,
)
from resnet_keras.evaluation import Evaluation
from resnet_keras.layers import record_of, set_record
from resnet_keras.precision import Precision, choose_precision
from resnet_keras.training.checks import check_accumulation, check_arguments, compiled_by_xla
from resnet_keras.training.display import Display
from resnet_keras.training.finish import finish_run
from resnet_keras.training.optimizers import Phase
from resnet_keras.training.packing import Bits
from resnet_keras.training.parts import Inputs
from resnet_keras.training.plan import CacheMode, CacheOptions, plan_phases
from resnet_keras.training.run import Run, Settings, opened
from resnet_keras.training.signals import stop_requests
from resnet_keras.training.state import Row

DEFAULT_PHASES = (Phase("head", epochs=5), Phase("stage4", epochs=10))
CACHE_FOLDER = "cache"
FLIPS = {"none": 1, "horizontal": 2, "vertical": 2, "both": 4}
# Views of each flip that are cached where pictures are varied by more than flips.
VARIED_VIEWS = 3


@dataclasses.dataclass(frozen=True)
class FineTuneResult:
    """What a run ended with.

    Args:
        model: The network with the best weights of the run.
        run_dir: The run folder.
        history: One row for each epoch of each phase.
        validation: Evaluation of the validation part; None if there is none.
        test: Evaluation of the test part; None if there is none, or it was not wanted.
    """

    model: keras.Model
    run_dir: Path
    history: list[Row]
    validation: Evaluation | None
    test: Evaluation | None


def fine_tune(
    model: keras.Model,
    data: ImageData,
    *,
    run_dir: str | Path,
    phases: Sequence[Phase] = DEFAULT_PHASES,
    augmentation: Augmentation | None = None,
    precision: Precision = "auto",
    cache: CacheMode | None = "auto",
    cache_bits: Bits = 8,
    cache_dir: str | Path | None = None,
    views: int | None = None,
    drop_remainder: bool = False,
    strategy: Strategy | StrategyName = "auto",
    jit_compile: bool | None = None,
    monitor: Literal["accuracy", "balanced_accuracy", "f1", "loss"] = "accuracy",
    flips: Flip = "none",
    evaluate_test: bool = True,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> FineTuneResult:
    """Trains a model on one's own pictures, phase after phase, and keeps all of it in a folder.

    In each phase everything before `Phase.start` is frozen to the bit. Where that is most of
    the network, its activations are computed once, for `views` versions of each picture, and
    the rest trains from them; otherwise each step sees freshly augmented pictures.

    The model ends with the weights of the epoch with the best `monitor` on the validation part,
    or with the last ones if there is no such part. Killed at any moment, the run can be resumed
    and ends with the same bits on CPU.

    Args:
        model: A model of `build_resnet` with one logit for each class of the data.
        data: What `load_images` returned.
        run_dir: The run folder; must be new or empty, or hold a run to resume.
        phases: What trains when, in this order.
        augmentation: How pictures are varied; None for horizontal flips alone.
        precision: What the convolutions compute in: "float32", "bfloat16", or "auto": bfloat16
            where the hardware is faster in it. Weights, logits and the loss are float32 in any.
        cache: Where activations are kept: "memory", "disk", "auto" (where they fit, if that
            saves a fifth of the work of the run), or None.
        cache_bits: Bits of a cached value: 32, 16, or 8, with a scale of its own for each channel
            of each picture. Pooled features always have 32.
        cache_dir: Folder in which activations are kept for other runs too: those of a picture
            that are there are not computed again. None for the run folder, until the run ends.
        views: Versions of each cached picture; None for one per flip of the augmentation, or
            three per flip if it varies more than that.
        drop_remainder: Whether the last, short batch of each epoch is left out, so that all
            shapes are static.
        strategy: Devices and processes that train together, as `get_strategy` returns or names
            them; on JAX, also a `keras.distribution.DataParallel`. The data's `batch_size` is that
            of all of them together, and what they compute is what one device would: to the bit
            on CPUs where they are two or four, on JAX eight too, else but for rounding.
        jit_compile: Whether XLA compiles the steps, all of one shape then; None for on a GPU, and
            on JAX, which cannot do without.
        monitor: Metric of the validation part that decides which epoch is the best.
        flips: Flips whose probabilities are averaged in the final evaluations.
        evaluate_test: Whether the test part is evaluated; not while there is still anything to
            choose by it. A finished run that is resumed may have it evaluated then.
        seed: Of order, augmentation and dropout.
        resume: Whether a run that is in the folder goes on; a finished one is only evaluated.
        force: Whether a run that is in the folder is deleted first.
        quiet: Whether nothing is shown meanwhile.

    Returns:
        The model, the history, and the evaluations of the validation and test parts.

    Raises:
        ValueError: If an argument is out of range or the classes do not match.
        RunError: If the run folder cannot be used or written, or is in use already.
        WorkersError: If the processes of the run differ, or lose each other.
        DivergedError: If the loss is no longer finite; the last good checkpoint stays.

    Example:
        >>> result = fine_tune(  # doctest: +SKIP
        ...     build_resnet(50, weights="open_nsfw", num_classes=3),
        ...     load_images("photos/"),
        ...     run_dir="runs/photos",
        ... )
    """
    augmentation = augmentation or Augmentation()
    views = default_views(augmentation) if views is None else views
    check_arguments(model, data, phases, views=views, monitor=monitor, cache_bits=cache_bits)
    replicas = replicas_of(_found(strategy))
    compiled = compiled_by_xla(jit_compile, replicas)
    check_accumulation(phases, replicas)
    folder, before = Path(run_dir), record_of(model)
    _adopt(model, data, folder.name)
    display = Display(quiet=quiet)
    with replicas.together():
        chosen = choose_precision(precision, model)
        options = CacheOptions(
            cache,
            views=views,
            bits=cache_bits,
            folder=Path(cache_dir) if cache_dir else folder / CACHE_FOLDER,
            shared=cache_dir is not None,
            dtype=replicas.workers.lead(chosen.dtype.encode).decode(),
        )
        inputs = Inputs(
            data,
            augmentation,
            cache=options,
            precision=precision,
            drop_remainder=drop_remainder,
            # XLA compiles each shape anew, and it compiles all that runs on a TPU.
            static=compiled or isinstance(replicas.strategy, tf.distribute.TPUStrategy),
            seed=seed,
        )
        plans = plan_phases(model, data, phases, options=options, workers=replicas.workers)
        settings = Settings(
            plans, inputs, monitor=monitor, flips=flips, test=evaluate_test, jit_compile=compiled
        )
        display.say(f"strategy: {describe(replicas.strategy)}")
        display.say(f"precision: {chosen}")
        config = {"weights": before.to_dict(), **_config(model, settings)}
        with opened(folder, config, settings, replicas=replicas, resume=resume, force=force):
            copy = placed(model, replicas)
            with stop_requests(alone=replicas.workers.count == 1) as stop:
                run = Run(
                    copy, settings, folder=folder, replicas=replicas, display=display, stop=stop
                )
                run.train()
            # From here on nothing can be lost: a signal may act at once.
            evaluations = finish_run(run)
        returned(copy, model)
    return FineTuneResult(model, folder, run.progress.history, *evaluations)


def _found(strategy: Strategy | StrategyName) -> Strategy:
    named = isinstance(strategy, str)
    return get_strategy(cast(StrategyName, strategy), quiet=True) if named else strategy


def _config(model: keras.Model, settings: Settings) -> dict[str, Any]:
    """Returns what a run is made of, besides its weights, and must be again to be resumed."""
    inputs = settings.inputs
    data, cache = inputs.data, inputs.cache
    return {
        "data": {"fingerprint": data.fingerprint, "classes": list(data.class_names)},
        "recipe": record_of(model).recipe.to_dict(),
        "batch_size": data.train.batch_size,
        "phases": [dataclasses.asdict(plan.phase) for plan in settings.plans],
        "augmentation": dataclasses.asdict(inputs.augmentation),
        "precision": cache.dtype,
        "views": cache.views,
        "cache_bits": cache.bits,
        "drop_remainder": inputs.drop_remainder,
        "cached": [plan.cache is not None for plan in settings.plans],
        "monitor": settings.monitor,
        "flips": settings.flips,
        "seed": inputs.seed,
    }


def default_views(augmentation: Augmentation) -> int:
    """Returns the views of each cached picture where their number is not given."""
    only_flips = augmentation == Augmentation(flip=augmentation.flip)
    return FLIPS[augmentation.flip] * (1 if only_flips else VARIED_VIEWS)


def _adopt(model: keras.Model, data: ImageData, name: str) -> None:
    """Gives the model the classes and the geometry of its new pictures; mean and std stay."""
    record, geometry = record_of(model), data.recipe
    recipe = dataclasses.replace(
        record.recipe,
        image_size=geometry.image_size,
        crop=geometry.crop,
        interpolation=geometry.interpolation,
    )
    source = f"{record.name} ({record.source}), fine-tuned in the run {name}"
    record = dataclasses.replace(
        record, recipe=recipe, class_names=data.class_names, name=name, source=source
    )
    set_record(model, record)
