"""A run under way: its phases, and where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.data.augment import Flip
from resnet_keras.distribution.replicas import Replicas
from resnet_keras.errors import WorkersError
from resnet_keras.precision import computing_in
from resnet_keras.training import runs
from resnet_keras.training.cache import derived_seed
from resnet_keras.training.display import Display
from resnet_keras.training.keeper import Keeper
from resnet_keras.training.loop import Steps, resident_steps, streamed_steps
from resnet_keras.training.losses import make_loss
from resnet_keras.training.optimizers import make_optimizer
from resnet_keras.training.parts import Inputs, Part, Parts
from resnet_keras.training.plan import PhasePlan, set_trainability
from resnet_keras.training.signals import StopRequest
from resnet_keras.training.state import (
    Checkpoints,
    Progress,
    model_tensors,
    random_states,
    restore_training,
)

CHECKPOINT_FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What does not change while a run goes on.

    Args:
        plans: Its phases, in order.
        inputs: What they train on.
        monitor: Metric that decides which epoch is the best.
        flips: Flips whose probabilities are averaged in the final evaluations.
        test: Whether the test part is evaluated.
        jit_compile: Whether XLA compiles the steps.
    """

    plans: Sequence[PhasePlan]
    inputs: Inputs
    monitor: str
    flips: Flip
    test: bool
    jit_compile: bool


@contextlib.contextmanager
def opened(
    folder: Path,
    config: dict[str, Any],
    settings: Settings,
    *,
    replicas: Replicas,
    resume: bool,
    force: bool,
) -> Iterator[None]:
    """Keeps the run folder for this run alone; the chief of several processes makes it.

    Raises:
        WorkersError: If the processes were given different pictures or settings.
        RunError: If the folder cannot be used.
    """
    inputs = settings.inputs
    facts = runs.environment(inputs.seed, inputs.data.fingerprint) | replicas.facts()
    with contextlib.ExitStack() as stack:

        def make() -> bytes:
            stack.enter_context(runs.only_one(folder))
            runs.open_run(folder, config, resume=resume, force=force)
            runs.write_json(folder / "environment.json", facts)
            return b""

        _check_agreement(config, replicas)
        replicas.workers.lead(make)
        yield


def _check_agreement(config: dict[str, Any], replicas: Replicas) -> None:
    text = json.dumps(config, sort_keys=True, default=str)
    found = replicas.workers.gather(hashlib.sha256(text.encode()).digest())
    if odd := [index for index, digest in enumerate(found) if digest != found[0]]:
        raise WorkersError(
            f"All workers must have the same pictures and settings, but worker {odd[0]} has others "
            "than the chief: start all with the same command on the same data."
        )


class Run:
    """Trains a model phase after phase, from where its newest checkpoint stands.

    Args:
        model: The whole network, made in the scope of the replicas.
        settings: What to do with it.
        folder: The run folder.
        replicas: Those that train together.
        display: What is shown meanwhile.
        stop: Whether a signal came.
    """

    def __init__(
        self,
        model: keras.Model,
        settings: Settings,
        *,
        folder: Path,
        replicas: Replicas,
        display: Display,
        stop: StopRequest,
    ) -> None:
        self.model, self.settings, self.folder = model, settings, folder
        self.data, self.replicas = settings.inputs.data, replicas
        self.progress = Progress()
        self.checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER, replicas.workers)
        self.display, self.stop = display, stop
        self._restored: dict[str, np.ndarray] = {}

    def train(self) -> None:
        """Trains what is left of the run; the model ends with the best weights."""
        if found := self.checkpoints.load(self.model):
            self.progress, self._restored = found
            self.display.say(f"resumed {self.folder} at {self.where()}")
        else:
            self.checkpoints.save(self.model, None, self.progress)
            if self.replicas.workers.count > 1:
                self.checkpoints.load(self.model)  # all begin with the weights of the chief
        parts = Parts(
            self.model, self.settings.inputs, self.settings.plans,
            replicas=self.replicas, display=self.display, stop=self.stop,
        )  # fmt: skip
        with computing_in(self.model, self.settings.inputs.cache.dtype):
            for plan in self.settings.plans[self.progress.phase :]:
                self._train_phase(plan, parts)
        if self.progress.best:
            self.checkpoints.load_best(self.model)
        else:
            self.checkpoints.save_best(model_tensors(self.model), self.model)

    def where(self) -> str:
        """Returns where the run stands, in words."""
        progress = self.progress
        return f"phase {progress.phase + 1}, epoch {progress.epoch + 1}, step {progress.step}"

    def _train_phase(self, plan: PhasePlan, parts: Parts) -> None:
        self.display.say(f"phase {plan.index + 1}: {plan}")
        set_trainability(self.model, plan.phase)
        part = parts.part(plan)
        if not (self.progress.epoch or self.progress.step):
            parts.recalibrate(part)
        self._prepare(part.trainer, plan, part.feed.steps)
        steps = self._steps(part, plan)
        keeper = Keeper(self, plan, trainer=part.trainer, feed=part.feed, validate=part.validate)
        with contextlib.closing(part.feed), self.display.phase(plan, part.feed.steps):
            for epoch in range(self.progress.epoch, plan.phase.epochs):
                for count, sums in steps(epoch, keeper.start_epoch(epoch)):
                    keeper.count(count, sums)
                keeper.end_epoch(epoch)
        parts.forget(plan)

    def _prepare(self, trainer: keras.Model, plan: PhasePlan, steps: int) -> None:
        """Gives a part its optimizer, and puts it back where the run was stopped."""
        with self.replicas.scope():
            trainer.optimizer = make_optimizer(
                plan.phase, steps * plan.phase.epochs, self.data.train.batch_size
            )
            trainer.optimizer.build(trainer.trainable_variables)
        seed = self.settings.inputs.seed
        for index, state in enumerate(random_states(trainer)):
            state.assign([derived_seed(seed, plan.index, index), 0])
        if self._restored and (self.progress.epoch or self.progress.step):
            restore_training(trainer, self._restored)
        self._restored = {}

    def _steps(self, part: Part, plan: PhasePlan) -> Steps:
        train = self.data.train
        loss = make_loss(plan.phase, train.labels, len(train.class_names))
        if part.resident is not None:
            return resident_steps(
                part.trainer, part.feed, loss,
                activations=part.resident, replicas=self.replicas, stop=self.stop,
            )  # fmt: skip
        return streamed_steps(
            part.trainer, part.feed, loss,
            replicas=self.replicas, stop=self.stop, jit_compile=self.settings.jit_compile,
        )  # fmt: skip
