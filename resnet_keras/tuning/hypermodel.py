"""`ResNetHyperModel`: the space of `tune` in one's own script of keras-tuner."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from keras_tuner.errors import FailedTrialError

from resnet_keras.data.untuned import untuned
from resnet_keras.stages import freeze, unfreeze
from resnet_keras.training.by_part import BY_PART, NO_DECAY
from resnet_keras.training.optimizers import OPTIONS
from resnet_keras.tuning.backbones import Source, backbones_of
from resnet_keras.tuning.batches import check_dataset, filled, mixed
from resnet_keras.tuning.cross_entropy import CrossEntropy
from resnet_keras.tuning.features import stages_of
from resnet_keras.tuning.memory import limited_memory
from resnet_keras.tuning.parameters import PARAMETERS, named_choices
from resnet_keras.tuning.scoped import Scoped, declare_unfrozen
from resnet_keras.tuning.space import Declared, Head, Values, declare_head

# What only `tune` searches, as it reads the pictures itself.
FIXED = ("class_balance", "views", "image_size")
# Of `build_resnet`, what the space decides.
SEARCHED = ("last_stage", "pooling", "head", "head_normalization", "head_activation", "dropout")


class ResNetHyperModel(keras_tuner.HyperModel):
    """Backbone, head and what trains of it, for the tuners of keras-tuner.

    Every trial runs all pictures through the whole network in every epoch, by the `fit` of Keras.
    `tune` searches the same space on features that it keeps, which is many times faster; this is
    for scripts that need a tuner of keras-tuner, or its `distribution_strategy`.

    The hyperparameters are those of `tune` without "class_balance", "views", "image_size" and
    "head"; what depends on a backbone or an optimizer has its name in front, such as
    "sgd/learning_rate". The learning rate is constant: "learning_rate" where the head trains
    alone, "fine_learning_rate" where "unfrozen" stages train with it.

    `tuner.search` takes `tf.data` datasets with batches of pixels in [0, 255] and of labels,
    integers or one-hot, and the other arguments of `fit`. With `shuffle`, which is true unless
    given, pictures are mixed anew in each epoch, where `fit` would take a dataset as it is. Under
    a strategy a short batch is filled with pictures of weight 0, so that no replica is empty;
    they lower "val_loss" by the same factor in each trial, and nothing else. Label smoothing is
    part of both losses, so where it is searched, compare by "val_accuracy".

    A trial that diverges, or needs more memory than is free, ends as FAILED with the reason; after
    `max_consecutive_failed_trials` of the tuner, the search stops.

    Args:
        num_classes: Number of logits.
        depths: Those of "imagenet" and of random weights; None for 18, 34 and 50.
        weights: One or more of "imagenet", a name of `list_weights()`, a file, a run folder, or
            None for random weights.
        space: By name of a hyperparameter, a value that is fixed, or a list of those that are
            tried; all others are searched.
        **options: Those of `build_resnet` that all networks share, such as `width`.

    Raises:
        ValueError: If an argument is out of range, or is not of this search.

    Example:
        >>> import keras_tuner
        >>> from resnet_keras.tuning import ResNetHyperModel
        >>> hypermodel = ResNetHyperModel(num_classes=3, depths=[18], weights=None, width=0.25)
        >>> model = hypermodel.build(keras_tuner.HyperParameters())
        >>> model.output.shape
        (None, 3)
    """

    def __init__(
        self,
        *,
        num_classes: int,
        depths: Sequence[int] | None = None,
        weights: Source | Sequence[Source] = "imagenet",
        space: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        named = named_choices(space or {})
        for argument, given, wrong in (("space", named, FIXED), ("options", options, SEARCHED)):
            if found := sorted(set(given) & set(wrong)):
                raise ValueError(f"`{argument}` must not name any of {wrong}. Received: {found}")
        self._named = named | {"class_balance": (False,)}
        self._backbones = backbones_of(depths, weights)
        self._options = {**options, "num_classes": num_classes}

    @functools.cached_property
    def _stages(self) -> dict[str, list[int]]:
        """The stages of each backbone that are searched, the last one first."""
        named = self._named.get("stage", PARAMETERS["stage"].tried)
        found = {}
        for name, backbone in self._backbones.items():
            model = backbone.build(seed=_new_seed(), **self._options)
            found[name] = sorted(set(named) & set(stages_of(model)), reverse=True)
            if not found[name]:
                raise ValueError(
                    f"`space` must name a stage that each backbone has. Received: stage={named!r} "
                    f"for {name!r}, which has {sorted(stages_of(model))}"
                )
        return found

    def build(self, hp: Any) -> keras.Model:
        """Returns the network that the hyperparameters describe, compiled.

        Args:
            hp: Those of keras-tuner; gets a value for each that is active.
        """
        stages, scoped = self._stages, Scoped(hp)
        declare_head(scoped, stages=stages, views=1, named=self._named)
        declare_unfrozen(Declared(scoped, self._named))
        active = [each.name for each in hp.space if hp.is_active(each)]
        values = {name.rpartition("/")[2]: hp.values[name] for name in active}
        model = self._backbones[values["backbone"]].build(
            seed=_new_seed(), **self._options, **Head(values).network()
        )
        freeze(model)
        if values["unfrozen"]:
            first = max(1, values["stage"] + 1 - values["unfrozen"])
            unfreeze(model, f"stage{first}", values["batch_norm"])  # type: ignore[arg-type]
        # Weighted, as pictures that only fill a batch must not count.
        loss = CrossEntropy(label_smoothing=values["label_smoothing"])
        model.compile(_optimizer(values), loss, weighted_metrics=["accuracy"])
        # Its state is in the checkpoints of the tuner, and must have where to go.
        model.optimizer.build(model.trainable_variables)
        return model

    def fit(
        self,
        hp: Any,
        model: keras.Model,
        x: tf.data.Dataset,
        *rest: Any,
        validation_data: tf.data.Dataset | None = None,
        shuffle: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **options: Any,
    ) -> keras.callbacks.History:
        """Trains a network of `build`.

        Args:
            hp: Its hyperparameters.
            model: The network.
            x: Batches for training.
            *rest: Further positional arguments of Keras's `fit`.
            validation_data: Batches for validation.
            shuffle: Whether the pictures for training are mixed anew in each epoch.
            callbacks: Those of the tuner and of the user.
            **options: Further named ones.

        Raises:
            FailedTrialError: If the training diverges, or the memory runs out.
            FatalTypeError: If the pictures are no dataset.
        """
        replicas = _replicas(model)
        check_dataset("x", x)
        if validation_data is not None:
            check_dataset("validation_data", validation_data)
            validation_data = untuned(filled(validation_data, replicas))
        try:
            with limited_memory():
                return model.fit(
                    untuned(filled(mixed(x) if shuffle else x, replicas)),
                    *rest,
                    validation_data=validation_data,
                    shuffle=False,
                    callbacks=[_EndDiverged(), *callbacks],
                    **options,
                )
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise FailedTrialError(
                f"The memory ran out: the trial needs more than is free ({type(error).__name__})."
            ) from None


class _EndDiverged(keras.callbacks.Callback):
    """Ends a trial whose loss or weights are no finite numbers."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check(logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check(logs)
        # ReLU and max pooling may swallow NaN, so that the loss does not tell.
        for variable in self.model.weights:
            if not np.isfinite(np.array(variable)).all():
                raise FailedTrialError(f"The training diverged: {variable.path} is not finite.")

    def _check(self, logs: Mapping[str, Any] | None) -> None:
        for name in ("loss", "val_loss"):
            value = float((logs or {}).get(name, 0.0))
            if not math.isfinite(value):
                raise FailedTrialError(f"The training diverged: {name} is {value}.")


def _new_seed() -> int:
    """Returns a seed that follows from `keras.utils.set_random_seed`, another one each time."""
    return random.getrandbits(31)


def _replicas(model: keras.Model) -> int:
    # Only Keras on TensorFlow has strategies.
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.num_replicas_in_sync if strategy else 1


def _optimizer(values: Values) -> Any:
    name, decay = values["optimizer"], values["weight_decay"]
    rate = values["fine_learning_rate" if values["unfrozen"] else "learning_rate"]
    layer_decay = values.get("layer_decay", 1.0)
    if layer_decay < 1:
        return BY_PART[name](rate, layer_decay=layer_decay, decay=decay, **OPTIONS[name])
    make = {"sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}[name]
    # SGD takes no decay of 0, AdamW no None.
    decay = decay or (None if name == "sgd" else 0.0)
    optimizer = make(rate, weight_decay=decay, **OPTIONS[name])
    optimizer.exclude_from_weight_decay(var_names=NO_DECAY)
    return optimizer
