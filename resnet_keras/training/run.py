"""A run under way: its phases, the activations they share, and where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data import Augmentation, ImageData, Images
from resnet_keras.evaluation import Evaluation, evaluate
from resnet_keras.folding import Folded, FrozenPart
from resnet_keras.layers import functional
from resnet_keras.precision import Precision, computing_in
from resnet_keras.stages import BOUNDARIES, Boundary, split_at
from resnet_keras.training.cache import (
    Activations,
    Views,
    compute_activations,
    derived_seed,
)
from resnet_keras.training.display import Display
from resnet_keras.training.feed import Feed, cached_feed, picture_feed
from resnet_keras.training.keeper import Keeper
from resnet_keras.training.loop import Steps, resident_steps, streamed_steps
from resnet_keras.training.optimizers import make_optimizer
from resnet_keras.training.plan import CacheOptions, PhasePlan, set_trainability
from resnet_keras.training.resizing import at_size
from resnet_keras.training.signals import StopRequest
from resnet_keras.training.state import (
    Checkpoints,
    Progress,
    model_tensors,
    random_states,
    restore_training,
)

CHECKPOINT_FOLDER = "checkpoints"
VALIDATION_BATCH = 32
Validate = Callable[[], Evaluation]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What does not change while a run goes on.

    Args:
        plans: Its phases, in order.
        augmentation: How pictures are varied.
        cache: How activations are kept.
        precision: What was asked for; `cache` has what was chosen.
        drop_remainder: Whether the last, short batch of an epoch is left out.
        monitor: Metric that decides which epoch is the best.
        seed: Of order, augmentation and dropout.
    """

    plans: Sequence[PhasePlan]
    augmentation: Augmentation
    cache: CacheOptions
    precision: Precision
    drop_remainder: bool
    monitor: str
    seed: int


class Run:
    """Trains a model phase after phase, from where its newest checkpoint stands.

    Args:
        model: The whole network.
        data: The pictures.
        settings: What to do with them.
        folder: The run folder.
        display: What is shown meanwhile.
        stop: Whether a signal came.
    """

    def __init__(
        self,
        model: keras.Model,
        data: ImageData,
        settings: Settings,
        *,
        folder: Path,
        display: Display,
        stop: StopRequest,
    ) -> None:
        self.model, self.data, self.settings, self.folder = model, data, settings, folder
        self.progress = Progress()
        self.checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER)
        self.display, self.stop = display, stop
        self._kept: dict[tuple[str, str, Views], Activations] = {}
        self._restored: dict[str, np.ndarray] = {}

    def train(self) -> None:
        """Trains what is left of the run; the model ends with the best weights."""
        if found := self.checkpoints.load(self.model):
            self.progress, self._restored = found
            self.display.say(f"resumed {self.folder} at {self.where()}")
        else:
            self.checkpoints.save(self.model, None, self.progress)
        with computing_in(self.model, self.settings.cache.dtype):
            for plan in self.settings.plans[self.progress.phase :]:
                self._train_phase(plan)
        self._kept.clear()
        if self.progress.best:
            self.checkpoints.load_best(self.model)
        else:
            self.checkpoints.save_best(model_tensors(self.model), self.model)

    def where(self) -> str:
        """Returns where the run stands, in words."""
        progress = self.progress
        return f"phase {progress.phase + 1}, epoch {progress.epoch + 1}, step {progress.step}"

    def _train_phase(self, plan: PhasePlan) -> None:
        self.display.say(f"phase {plan.index + 1}: {plan}")
        set_trainability(self.model, plan.phase)
        part = self._cached(plan) if plan.boundary else self._live(plan)
        steps = self._prepared(part, plan)
        keeper = Keeper(self, plan, trainer=part.trainer, feed=part.feed, validate=part.validate)
        with contextlib.closing(part.feed), self.display.phase(plan, part.feed.steps):
            for epoch in range(self.progress.epoch, plan.phase.epochs):
                for count, means in steps(epoch, keeper.start_epoch(epoch)):
                    keeper.count(count, means)
                keeper.end_epoch(epoch)
        # What lies behind the boundary has been trained: activations from there are no longer so.
        still = (
            BOUNDARIES[: BOUNDARIES.index(plan.phase.boundary) + 1] if plan.phase.boundary else ()
        )
        self._kept = {key: kept for key, kept in self._kept.items() if kept.boundary in still}

    def _prepared(self, part: _Part, plan: PhasePlan) -> Steps:
        """Compiles the part that trains, or puts it back where the run was stopped."""
        trainer, smoothing = part.trainer, plan.phase.label_smoothing
        trainer.compile(
            make_optimizer(plan.phase, part.feed.steps * plan.phase.epochs),
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing),
            metrics=["accuracy"],
            jit_compile=False,
        )
        trainer.optimizer.build(trainer.trainable_variables)
        for index, state in enumerate(random_states(trainer)):
            state.assign([derived_seed(self.settings.seed, plan.index, index), 0])
        if self._restored and (self.progress.epoch or self.progress.step):
            restore_training(trainer, self._restored)
        self._restored = {}
        if part.resident is not None:
            return resident_steps(trainer, part.feed, part.resident)
        return streamed_steps(trainer, part.feed)

    def _live(self, plan: PhasePlan) -> _Part:
        """Every step augments pictures and runs the whole network, what is frozen folded."""
        images = at_size(self.data.train, plan.image_size)
        inputs = keras.Input(images.shape)
        seed = derived_seed(self.settings.seed, plan.index)
        x = inputs
        for layer in self.settings.augmentation.layers(seed):
            x = layer(x)
        rest = self.model
        if boundary := plan.phase.boundary:
            dtype = self.settings.cache.dtype
            x = FrozenPart(Folded(self.model, through=boundary, dtype=dtype))(x)
            _, rest = split_at(self.model, boundary)
        feed = picture_feed(
            images,
            seed=(self.settings.seed, plan.index),
            drop_remainder=self.settings.drop_remainder,
        )
        trainer = functional(inputs, rest(x), name="augmented")
        validate = None
        if self.data.val:
            precision = self.settings.precision
            validate = functools.partial(evaluate, self.model, self.data.val, precision=precision)
        return _Part(trainer, feed, validate)

    def _cached(self, plan: PhasePlan) -> _Part:
        """Every step runs the part behind the boundary on activations that were kept."""
        needed = {plan.boundary, self._shallowest(plan)}
        self._kept = {key: kept for key, kept in self._kept.items() if kept.boundary in needed}
        images = at_size(self.data.train, plan.image_size)
        activations = self._activations(plan, images, self.settings.cache.views)
        _, rest = split_at(self.model, activations.boundary)
        inputs, features = activations.inputs()
        whole = functional(inputs, rest(features), name="from_rows")
        feed = cached_feed(
            images,
            activations,
            seed=(self.settings.seed, plan.index),
            drop_remainder=self.settings.drop_remainder,
        )
        val = self.data.val
        validate = self._validation(plan, rest, val) if val else None
        if activations.boundary == "pool":
            return _Part(rest, feed, validate, resident=activations.array())
        return _Part(whole, feed, validate)

    def _validation(self, plan: PhasePlan, rest: keras.Model, val: Images) -> Validate:
        kept = self._activations(plan, val, views=1)
        inputs, features = kept.inputs()
        whole = functional(inputs, rest(features))
        predict = tf.function(lambda rows: whole(rows, training=False), reduce_retracing=True)
        return functools.partial(_evaluate_kept, predict, kept, val)

    def _activations(self, plan: PhasePlan, images: Images, views: int) -> Activations:
        boundary, base = plan.boundary, self._shallowest(plan)
        if boundary is None or base is None:
            raise ValueError(f"phase {plan.phase.start!r} has no boundary to keep")
        versions = Views(views, self.settings.augmentation, self.settings.seed)
        source = self._compute(images, base, views=versions) if base != boundary else None
        return self._compute(images, boundary, views=versions, source=source)

    def _shallowest(self, plan: PhasePlan) -> Boundary | None:
        """The first boundary that this phase or a later one needs: all others follow from it."""
        coming = [
            later.boundary
            for later in self.settings.plans[plan.index :]
            if later.image_size == plan.image_size
        ]
        return min((found for found in coming if found), key=BOUNDARIES.index, default=None)

    def _compute(
        self,
        images: Images,
        boundary: Boundary,
        *,
        views: Views,
        source: Activations | None = None,
    ) -> Activations:
        options = self.settings.cache
        key = (boundary, images.fingerprint, views)
        if key not in self._kept:
            on_disk = any(plan.cache == "disk" for plan in self.settings.plans)
            with self.display.counting(
                f"activations at {boundary}", len(images) * views.count
            ) as count:
                self._kept[key] = compute_activations(
                    self.model, images, boundary,
                    views=views, home=options.folder if on_disk else None, bits=options.bits,
                    dtype=options.dtype, source=source, on_batch=self._counted(count),
                )  # fmt: skip
        return self._kept[key]

    def _counted(self, count: Callable[[int], None]) -> Callable[[int], None]:
        def on_batch(pictures: int) -> None:
            self.stop.leave()
            count(pictures)

        return on_batch


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a phase trains.

    Args:
        trainer: The model from its inputs to logits.
        feed: Its batches.
        validate: Returns the evaluation of the validation part; None if there is none.
        resident: All inputs, where they lie in memory as features.
    """

    trainer: keras.Model
    feed: Feed
    validate: Validate | None
    resident: np.ndarray | None = None


def _evaluate_kept(predict: Callable[[Any], Any], kept: Activations, images: Images) -> Evaluation:
    starts = range(0, len(images), VALIDATION_BATCH)
    batches = [np.arange(start, min(start + VALIDATION_BATCH, len(images))) for start in starts]
    logits = np.concatenate([np.asarray(predict(kept.batch(batch))) for batch in batches])
    probabilities = np.asarray(keras.ops.softmax(logits.astype(np.float32)))
    return Evaluation(images.labels, probabilities, images.names, images.class_names)
