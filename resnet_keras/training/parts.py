"""What each phase trains: on pictures through the whole network, or on kept activations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data import Augment, Augmentation, ImageData, Images
from resnet_keras.distribution.compiled import compiled
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.evaluation import Evaluation, evaluate
from resnet_keras.folding import Folded, FrozenPart
from resnet_keras.layers import functional
from resnet_keras.precision import Precision
from resnet_keras.stages import BOUNDARIES, Boundary, boundary_layer, split_at
from resnet_keras.training.cache import (
    Activations,
    Views,
    compute_activations,
)
from resnet_keras.training.display import Display
from resnet_keras.training.feed import Feed, cached_feed, picture_feed
from resnet_keras.training.plan import CacheOptions, PhasePlan
from resnet_keras.training.recalibration import Sample, recalibrate
from resnet_keras.training.resizing import at_size
from resnet_keras.training.signals import StopRequest

VALIDATION_BATCH = 32
Validate = Callable[[], Evaluation]


@dataclasses.dataclass(frozen=True)
class Part:
    """What a phase trains.

    Args:
        trainer: The model from its inputs to logits.
        feed: Its batches.
        validate: Returns the evaluation of the validation part; None if there is none.
        sample: Training pictures for the statistics of its norms; None for the head alone.
        resident: The features it trains from, where they lie in memory.
    """

    trainer: keras.Model
    feed: Feed
    validate: Validate | None
    sample: Sample | None = None
    resident: Activations | None = None


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where the inputs of all phases come from.

    Args:
        data: The pictures.
        augmentation: How they are varied.
        cache: How activations are kept.
        precision: What was asked for; `cache` has what was chosen.
        drop_remainder: Whether the last, short batch of an epoch is left out.
        static: Whether all steps have one shape.
        seed: Of order and augmentation.
    """

    data: ImageData
    augmentation: Augmentation
    cache: CacheOptions
    precision: Precision
    drop_remainder: bool
    static: bool
    seed: int


class Parts:
    """Builds the part that each phase trains; phases share the activations that they can share.

    Args:
        model: The whole network.
        inputs: Where its inputs come from.
        plans: The phases of the run.
        replicas: Those that share each batch.
        display: What is shown meanwhile.
        stop: Whether a signal came.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Inputs,
        plans: Sequence[PhasePlan],
        *,
        replicas: Replicas,
        display: Display,
        stop: StopRequest,
    ) -> None:
        self._model, self._inputs, self._plans, self._replicas = model, inputs, plans, replicas
        self._display, self._stop = display, stop
        self._kept: dict[tuple[str, str, Views], Activations] = {}

    def part(self, plan: PhasePlan) -> Part:
        """Returns what a phase trains; computes the activations that it needs."""
        return self._cached(plan) if plan.boundary else self._live(plan)

    def recalibrate(self, part: Part) -> None:
        """Gives the norms that are about to train the statistics of the training pictures."""
        if part.sample:
            recalibrate(part.sample, self._replicas.workers, counting=self._counting)

    def forget(self, plan: PhasePlan) -> None:
        """Lets go of the activations that are no longer right once a phase has trained."""
        still = (
            BOUNDARIES[: BOUNDARIES.index(plan.phase.boundary) + 1] if plan.phase.boundary else ()
        )
        self._kept = {key: kept for key, kept in self._kept.items() if kept.boundary in still}

    def _live(self, plan: PhasePlan) -> Part:
        """Every step augments pictures and runs the whole network, what is frozen folded."""
        data, dtype = self._inputs.data, self._inputs.cache.dtype
        images = at_size(data.train, plan.image_size)
        seed = (self._inputs.seed, plan.index)
        sharing = self._sharing(images)
        feed = picture_feed(images, self._inputs.augmentation, sharing=sharing, seed=seed)
        inputs = [keras.Input(spec.shape, dtype=spec.dtype.name) for spec in feed.specs]
        x = Augment(self._inputs.augmentation)(inputs)
        rest = self._model
        if boundary := plan.phase.boundary:
            with self._replicas.scope():
                folded = Folded(self._model, through=boundary, dtype=dtype)
                x = FrozenPart(folded, kept=None if self._replicas.is_plain else "float32")(x)
            _, rest = split_at(self._model, boundary)
        trainer = functional(inputs, rest(x), name="augmented")
        pixels = keras.Input(images.shape, dtype="uint8")
        sample = Sample(
            self._model, self._model.input, pixels, pixels, images.pictures, sharing.owned
        )
        if data.val is None:
            return Part(trainer, feed, None, sample)
        validate = functools.partial(
            evaluate, self._model, data.val, precision=self._inputs.precision,
            strategy=self._replicas.strategy,
        )  # fmt: skip
        return Part(trainer, feed, validate, sample)

    def _cached(self, plan: PhasePlan) -> Part:
        """Every step runs the part behind the boundary on activations that were kept."""
        needed = {plan.boundary, self._shallowest(plan)}
        self._kept = {key: kept for key, kept in self._kept.items() if kept.boundary in needed}
        images = at_size(self._inputs.data.train, plan.image_size)
        resident = plan.boundary == "pool"
        sharing = self._sharing(images, static=resident)
        activations = self._activations(
            plan, images, own=sharing.owned, views=self._inputs.cache.views
        )
        _, rest = split_at(self._model, activations.boundary)
        seed = (self._inputs.seed, plan.index)
        feed = cached_feed(images, activations, sharing=sharing, seed=seed)
        val = self._inputs.data.val
        validate = self._validation(plan, rest, val) if val else None
        if resident:
            return Part(rest, feed, validate, resident=activations)
        rows, features = activations.inputs()
        trainer = functional(rows, rest(features), name="from_rows")
        start = boundary_layer(self._model, activations.boundary).output
        sample = Sample(self._model, start, rows, features, activations.batch, sharing.owned)
        return Part(trainer, feed, validate, sample)

    def _sharing(self, images: Images, *, static: bool = False) -> Sharing:
        return Sharing(
            len(images),
            images.batch_size,
            replicas=self._replicas.count,
            numbers=self._replicas.numbers,
            groups=self._replicas.groups(images.batch_size),
            drop_remainder=self._inputs.drop_remainder,
            static=static or self._inputs.static,
        )

    def _validation(self, plan: PhasePlan, rest: keras.Model, val: Images) -> Validate:
        workers = self._replicas.workers
        own = workers.share(len(val))
        kept = self._activations(plan, val, own=np.isin(np.arange(len(val)), own), views=1)
        inputs, features = kept.inputs()
        whole = functional(inputs, rest(features))
        rows = tf.TensorSpec((None, kept.packing.row_bytes), tf.uint8)
        predict = compiled(
            lambda values: whole(values, training=False), rows, variables=whole.variables
        )

        def validate() -> Evaluation:
            probabilities = workers.gather_rows(_probabilities(predict, kept, own), len(val))
            return Evaluation(val.labels, probabilities, val.names, val.class_names)

        return validate

    def _activations(
        self, plan: PhasePlan, images: Images, *, own: np.ndarray, views: int
    ) -> Activations:
        boundary, base = plan.boundary, self._shallowest(plan)
        if boundary is None or base is None:
            raise ValueError(f"phase {plan.phase.start!r} has no boundary to keep")
        versions = Views(views, self._inputs.augmentation, self._inputs.seed)
        compute = functools.partial(self._compute, images, own=own, views=versions)
        return compute(boundary, source=compute(base) if base != boundary else None)

    def _shallowest(self, plan: PhasePlan) -> Boundary | None:
        """The first boundary that this phase or a later one needs: all others follow from it."""
        coming = [
            later.boundary
            for later in self._plans[plan.index :]
            if later.image_size == plan.image_size
        ]
        return min((found for found in coming if found), key=BOUNDARIES.index, default=None)

    def _compute(
        self,
        images: Images,
        boundary: Boundary,
        *,
        own: np.ndarray,
        views: Views,
        source: Activations | None = None,
    ) -> Activations:
        options = self._inputs.cache
        key = (boundary, images.fingerprint, views)
        if key not in self._kept:
            on_disk = any(plan.cache == "disk" for plan in self._plans)
            count = int(own.sum()) * views.count
            with self._counting(f"activations at {boundary}", count) as on_batch:
                self._kept[key] = compute_activations(
                    self._model, images, boundary,
                    own=own, views=views, home=options.folder if on_disk else None,
                    bits=options.bits, dtype=options.dtype, source=source, on_batch=on_batch,
                )  # fmt: skip
        return self._kept[key]

    @contextlib.contextmanager
    def _counting(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        with self._display.counting(text, total) as count:

            def on_batch(pictures: int) -> None:
                self._stop.leave()
                count(pictures)

            yield on_batch


def _probabilities(
    predict: Callable[[Any], Any], kept: Activations, pictures: np.ndarray
) -> np.ndarray:
    """Returns the softmax in float32 for some pictures of which the activations are kept."""
    starts = range(0, len(pictures), VALIDATION_BATCH)
    batches = [pictures[start : start + VALIDATION_BATCH] for start in starts]
    found = [np.asarray(keras.ops.softmax(predict(kept.batch(batch)))) for batch in batches]
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
