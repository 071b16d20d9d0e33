"""A run under way: its phases, the activations they share, and where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data import Augmentation, ImageData, Images
from resnet_keras.evaluation import Evaluation, evaluate
from resnet_keras.layers import functional
from resnet_keras.stages import BOUNDARIES, Boundary, split_at
from resnet_keras.training.cache import (
    EXTRACTION_BATCH,
    Activations,
    Views,
    cache_key,
    compute_activations,
    derived_seed,
    inference_function,
)
from resnet_keras.training.callbacks import Keeper
from resnet_keras.training.display import Display
from resnet_keras.training.feed import Feed, cached_feed, picture_feed
from resnet_keras.training.optimizers import make_optimizer
from resnet_keras.training.plan import PhasePlan, set_trainability
from resnet_keras.training.signals import StopRequest
from resnet_keras.training.state import (
    Checkpoints,
    Progress,
    model_tensors,
    random_states,
    restore_training,
)

CACHE_FOLDER = "cache"
CHECKPOINT_FOLDER = "checkpoints"
Validate = Callable[[], Evaluation]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What does not change while a run goes on.

    Args:
        plans: Its phases, in order.
        augmentation: How pictures are varied.
        views: Versions of each cached picture.
        monitor: Metric that decides which epoch is the best.
        seed: Of order, augmentation and dropout.
    """

    plans: Sequence[PhasePlan]
    augmentation: Augmentation
    views: int
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
        self._kept: dict[str, Activations] = {}
        self._restored: dict[str, np.ndarray] = {}

    def train(self) -> None:
        """Trains what is left of the run; the model ends with the best weights."""
        if found := self.checkpoints.load(self.model):
            self.progress, self._restored = found
            self.display.say(f"resumed {self.folder} at {self.where()}")
        else:
            self.checkpoints.save(self.model, None, self.progress)
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
        trainer, feed, validate = self._cached(plan) if plan.boundary else self._live(plan)
        self._compile(trainer, plan, feed.steps)
        keeper = Keeper(self, plan, feed=feed, validate=validate)
        with contextlib.closing(feed), self.display.phase(plan, feed.steps):
            if self.progress.step:
                # What is left of an interrupted epoch has fewer steps than the epochs to come.
                self._fit(trainer, keeper, feed, epochs=self.progress.epoch + 1)
            if self.progress.phase == plan.index:
                self._fit(trainer, keeper, feed, epochs=plan.phase.epochs)

    def _fit(self, trainer: keras.Model, keeper: Keeper, feed: Feed, *, epochs: int) -> None:
        feed.epoch = self.progress.epoch
        trainer.fit(
            feed.dataset(self.progress.step),
            initial_epoch=self.progress.epoch,
            epochs=epochs,
            callbacks=[keeper],
            shuffle=False,
            verbose=0,
        )

    def _compile(self, trainer: keras.Model, plan: PhasePlan, steps: int) -> None:
        smoothing = plan.phase.label_smoothing
        trainer.compile(
            make_optimizer(plan.phase, steps * plan.phase.epochs),
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing),
            metrics=["accuracy"],
            # XLA halves the speed of training on CPU.
            jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
        )
        trainer.optimizer.build(trainer.trainable_variables)
        for index, state in enumerate(random_states(trainer)):
            state.assign([derived_seed(self.settings.seed, plan.index, index), 0])
        if self._restored and (self.progress.epoch or self.progress.step):
            restore_training(trainer, self._restored)
        self._restored = {}

    def _live(self, plan: PhasePlan) -> tuple[keras.Model, Feed, Validate | None]:
        """Every step augments pictures and runs the whole network."""
        inputs = keras.Input(self.data.train.shape)
        seed = derived_seed(self.settings.seed, plan.index)
        x = inputs
        for layer in self.settings.augmentation.layers(seed):
            x = layer(x)
        feed = picture_feed(self.data.train, seed=(self.settings.seed, plan.index))
        trainer = functional(inputs, self.model(x), name="augmented")
        val = self.data.val
        return trainer, feed, (lambda: evaluate(self.model, val)) if val else None

    def _cached(self, plan: PhasePlan) -> tuple[keras.Model, Feed, Validate | None]:
        """Every step runs the part behind the boundary on activations that were kept."""
        needed = {plan.boundary, self._shallowest(plan)}
        self._kept = {key: kept for key, kept in self._kept.items() if kept.boundary in needed}
        activations = self._activations(plan, self.data.train, self.settings.views)
        _, trainer = split_at(self.model, activations.boundary)
        feed = cached_feed(self.data.train, activations, seed=(self.settings.seed, plan.index))
        if self.data.val is None:
            return trainer, feed, None
        kept = self._activations(plan, self.data.val, views=1)
        predict, val = inference_function(trainer), self.data.val
        return trainer, feed, lambda: _evaluate_kept(predict, kept, val)

    def _activations(self, plan: PhasePlan, images: Images, views: int) -> Activations:
        boundary, base = plan.boundary, self._shallowest(plan)
        if boundary is None or base is None:
            raise ValueError(f"phase {plan.phase.start!r} has no boundary to keep")
        versions = Views(views, self.settings.augmentation, self.settings.seed)
        source = self._compute(images, base, views=versions) if base != boundary else None
        return self._compute(images, boundary, views=versions, source=source)

    def _shallowest(self, plan: PhasePlan) -> Boundary | None:
        """The first boundary that this phase or a later one needs: all others follow from it."""
        coming = [later.boundary for later in self.settings.plans[plan.index :]]
        return min((found for found in coming if found), key=BOUNDARIES.index, default=None)

    def _compute(
        self,
        images: Images,
        boundary: Boundary,
        *,
        views: Views,
        source: Activations | None = None,
    ) -> Activations:
        key = cache_key(self.model, images, boundary, views=views)
        if key not in self._kept:
            on_disk = any(plan.cache == "disk" for plan in self.settings.plans)
            file = self.folder / CACHE_FOLDER / f"{key}.npy" if on_disk else None
            total = len(images) * views.count
            with self.display.counting(f"activations at {boundary}", total) as count:
                self._kept[key] = compute_activations(
                    self.model, images, boundary,
                    views=views, source=source, file=file, on_batch=self._counted(count),
                )  # fmt: skip
        return self._kept[key]

    def _counted(self, count: Callable[[int], None]) -> Callable[[int], None]:
        def on_batch(pictures: int) -> None:
            self.stop.leave()
            count(pictures)

        return on_batch


def _evaluate_kept(predict: Callable[[Any], Any], kept: Activations, images: Images) -> Evaluation:
    batches = np.array_split(kept.values[0], -(-len(images) // EXTRACTION_BATCH))
    logits = np.concatenate([np.asarray(predict(batch)) for batch in batches])
    probabilities = np.asarray(keras.ops.softmax(logits.astype(np.float32)))
    return Evaluation(images.labels, probabilities, images.names, images.class_names)
