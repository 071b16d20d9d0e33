"""Tier 2: the best heads with the network behind them, each trial a run of `fine_tune`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_keras.data import Augmentation, ImageData
from resnet_keras.errors import TuningError
from resnet_keras.precision import Precision
from resnet_keras.training.phases import FineTuneResult, fine_tune
from resnet_keras.training.runs import CONFIG
from resnet_keras.training.schedule import Schedule
from resnet_keras.tuning.backbones import Backbone
from resnet_keras.tuning.budget import Cost
from resnet_keras.tuning.engine import Outcome, SearchEngine
from resnet_keras.tuning.files import read_stored
from resnet_keras.tuning.space import Head, Values, fine_schedule
from resnet_keras.tuning.splits import split_again
from resnet_keras.tuning.trials import OBJECTIVES, Objective, TrialResult

# Hyperparameters of a trial that fine-tunes a network once more.
NETWORK, REPEAT = "network", "repeat"


@dataclasses.dataclass(frozen=True)
class Training:
    """How networks are fine-tuned, whatever their head.

    Args:
        data: The pictures.
        backbones: Those of the search by name.
        augmentation: How pictures are varied.
        precision: What the convolutions compute in.
        objective: What says which epoch is the best.
        head_epochs: Epochs of the head.
        epochs: Epochs of what follows.
        cache_dir: Folder of the activations, which networks with one frozen part share.
        seed: Of weights, order and augmentation.
    """

    data: ImageData
    backbones: Mapping[str, Backbone]
    augmentation: Augmentation
    precision: Precision
    objective: Objective
    head_epochs: int
    epochs: int
    cache_dir: Path
    seed: int

    def again(self, number: int) -> Training:
        """Returns a training with another seed and, where the split was drawn, another split.

        Args:
            number: Which one, from 1; 0 for this one.
        """
        if not number:
            return self
        seed = self.seed + number
        return dataclasses.replace(self, data=split_again(self.data, seed=seed), seed=seed)

    def schedule(self, head: Head, values: Values) -> Schedule:
        """Returns the phases of a tier-2 trial, or of a head that is trained alone."""
        return fine_schedule(head, values, head_epochs=self.head_epochs, epochs=self.epochs)

    def run(self, head: Head, values: Values, folder: Path, *, test: bool) -> FineTuneResult:
        """Fine-tunes a network in a run folder, or goes on with what is there.

        Args:
            head: Its backbone and head.
            values: Those of a tier-2 trial; none for the head alone.
            folder: The run folder.
            test: Whether the test part is evaluated.
        """
        classes = len(self.data.class_names)
        backbone = self.backbones[head.values["backbone"]]
        with _silence():
            model = backbone.build(seed=self.seed, num_classes=classes, **head.network())
        return fine_tune(
            model,
            self.data,
            run_dir=folder,
            phases=self.schedule(head, values).phases(),
            augmentation=self.augmentation,
            precision=self.precision,
            cache_dir=self.cache_dir,
            views=head.values["views"],
            monitor=self.objective,
            seed=self.seed,
            evaluate_test=test,
            resume=(folder / CONFIG).exists(),
            quiet=True,
        )

    def options(self, head: Head, values: Values) -> dict[str, Any]:
        """Returns the options by which `resnet-keras finetune --config` repeats it."""
        network = head.network()
        recipe = self.data.recipe
        found = {
            **self.backbones[head.values["backbone"]].options(),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in network.items()},
            **dataclasses.asdict(self.schedule(head, values)),
            "views": head.values["views"],
            "flip": self.augmentation.flip,
            "monitor": self.objective,
            "image_size": recipe.image_size,
            "crop": recipe.crop,
            "interpolation": recipe.interpolation,
            "batch_size": self.data.train.batch_size,
            "precision": self.precision,
            "seed": self.seed,
        }
        return {name: value for name, value in found.items() if value is not None}


class FineSearch(SearchEngine):
    """Fine-tunes networks one after the other: new ones, or others once more.

    Args:
        oracle: From `make_oracle`. Its trials have the hyperparameters of `declare_fine`, or a
            "network", which is the name of such a trial, and the number of its "repeat".
        training: How.
        heads: The folder of tier 1.
        networks: The folder of the trials that are repeated.
        cost: Returns what a network with the hyperparameters of a head costs.
        **options: Those of `SearchEngine`.
    """

    def __init__(
        self,
        oracle: Any,
        training: Training,
        *,
        heads: Path,
        networks: Path,
        cost: Callable[[Values], Cost],
        **options: Any,
    ) -> None:
        super().__init__(oracle, tier="fine-tune", **options)
        self._training, self._heads, self._networks = training, heads, networks
        self._cost = cost

    def train(self, trials: Sequence[Any]) -> Iterator[Outcome]:
        """Fine-tunes the network of each trial."""
        for trial in trials:
            values = trial.hyperparameters.values
            training = self._training.again(values.get(REPEAT, 0))
            if REPEAT in values:
                values = values_of(values[NETWORK], self._networks)
            head = Head(values_of(values["head"], self._heads))
            folder = run_folder(Path(self.project_dir), trial.trial_id)
            cost = self._cost(head.values)
            metrics = _metrics(training.run(head, values, folder, test=False))
            if training is not self._training:
                shutil.rmtree(folder)  # of a repeat, nothing but the score is asked
            yield {**metrics, "latency_ms": cost.latency_ms, "params": cost.params}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps back that a head is new and stages are left out: a search is made of that."""
    logger = logging.getLogger("resnet_keras")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def run_folder(search: Path, name: str) -> Path:
    """Returns the run folder of a tier-2 trial."""
    return search / f"run_{name}"


def head_of(result: TrialResult, heads: Path) -> Head:
    """Returns the head of a trial of either tier.

    Args:
        result: The trial.
        heads: The folder of tier 1.
    """
    name = result.values.get("head")
    return Head(result.values if name is None else values_of(name, heads))


def values_of(name: str, search: Path) -> Values:
    """Returns the values of a trial.

    Args:
        name: Its name.
        search: The folder of its tier.

    Raises:
        TuningError: If its file can no longer be read.
    """
    stored = read_stored(search / f"trial_{name}")
    if stored is None:
        raise TuningError(f"The trial {name} in {search} can no longer be read: start anew.")
    return stored.values


def _metrics(result: FineTuneResult) -> Mapping[str, float]:
    evaluation = result.validation
    assert evaluation is not None  # `tune` refuses data without a validation part
    metrics = {f"val_{name}": float(getattr(evaluation, name)) for name in OBJECTIVES}
    seconds = sum(float(row["seconds"]) for row in result.history)
    return metrics | {"seconds": seconds}
