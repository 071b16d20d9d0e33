"""Tier 1: heads on the cached features of all backbones, as trials of keras-tuner."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.data import Augmentation, ImageData
from resnet_keras.errors import TuningError
from resnet_keras.precision import Precision, choose_precision
from resnet_keras.training.cache import Views
from resnet_keras.training.display import Display
from resnet_keras.tuning.backbones import Backbone
from resnet_keras.tuning.budget import Budget, Cost
from resnet_keras.tuning.engine import Outcome, SearchEngine, reason_of
from resnet_keras.tuning.features import Features, stage_features
from resnet_keras.tuning.heads import Task, train_heads
from resnet_keras.tuning.scores import Metrics
from resnet_keras.tuning.space import Head, Values
from resnet_keras.tuning.splits import another_split, joined
from resnet_keras.tuning.trials import Objective, before_failure

# Heads of one shape are trained by the same steps; more at once make more of one shape.
AT_ONCE = 50
# A key of Hyperband's for the epochs of a trial.
OWN_EPOCHS = "tuner/epochs"


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """What the heads learn from: the training and the validation part, and features of both.

    Args:
        data: The pictures.
        backbones: Those of the search by name.
        augmentation: How pictures are varied.
        views: Versions of each picture.
        precision: What the convolutions compute in.
        folder: Where features are kept.
        seed: Of views and weights.
        display: What is shown meanwhile.
    """

    data: ImageData
    backbones: Mapping[str, Backbone]
    augmentation: Augmentation
    views: int
    precision: Precision
    folder: Path
    seed: int
    display: Display
    _features: dict[str, Features] = dataclasses.field(default_factory=dict, repr=False)

    def features(self, name: str) -> Features:
        """Returns the features of all pictures; computed if no process has done so yet."""
        if name not in self._features:
            parts = [self.data.train, *([self.data.val] if self.data.val else [])]
            images = joined(parts)
            model = self.backbones[name].build(seed=self.seed, num_classes=None)
            total = len(images) * self.views
            with self.display.counting(f"features of {name}", total) as count:
                self._features[name] = stage_features(
                    model,
                    images,
                    views=Views(self.views, self.augmentation, self.seed),
                    folder=self.folder,
                    dtype=choose_precision(self.precision, model).dtype,
                    on_batch=count,
                )
        return self._features[name]

    def task(self, names: Sequence[str], *, epochs: int, objective: Objective) -> Task:
        """Returns the task of the split that the data came with.

        Args:
            names: Backbones whose features are wanted.
            epochs: Passes over the training pictures.
            objective: What is best.
        """
        val = self.data.val
        labels = [self.data.train.labels, *([val.labels] if val else [])]
        train = len(self.data.train)
        return Task(
            {name: self.features(name) for name in names},
            np.concatenate(labels),
            len(self.data.class_names),
            train=np.arange(train),
            val=np.arange(train, train + (len(val) if val else 0)),
            batch_size=self.data.train.batch_size,
            epochs=epochs,
            objective=objective,
            seed=self.seed,
        )

    def again(self, task: Task, number: int) -> Task:
        """Returns the task with another seed and, where the split was drawn, with another split.

        Args:
            task: The task.
            number: Which one, from 1.
        """
        seed = self.seed + number
        split = another_split(self.data, seed=seed)
        if split is None:
            return dataclasses.replace(task, seed=seed)
        train, val = split
        return dataclasses.replace(task, seed=seed, train=train, val=val)


class HeadSearch(SearchEngine):
    """Trains heads, as many at once as there are to train.

    Args:
        oracle: From `make_oracle`.
        pictures: What they learn from.
        epochs: Passes over the training pictures, where the algorithm has none of its own.
        objective: What is best.
        cost: Returns what a network with these hyperparameters costs.
        budget: What it may cost.
        **options: Those of `SearchEngine`.
    """

    def __init__(
        self,
        oracle: Any,
        pictures: Pictures,
        *,
        epochs: int,
        objective: Objective,
        cost: Callable[[Values], Cost],
        budget: Budget,
        **options: Any,
    ) -> None:
        super().__init__(oracle, tier="head", at_once=AT_ONCE, **options)
        self._pictures, self._epochs, self._aim = pictures, epochs, objective
        self._cost, self._budget = cost, budget

    def train(self, trials: Sequence[Any]) -> Iterator[Outcome]:
        """Trains heads; those that have as many epochs at once."""
        values = [trial.hyperparameters.values for trial in trials]
        found: dict[int, Outcome] = {}
        for epochs in sorted({each.get(OWN_EPOCHS, self._epochs) for each in values}):
            chosen = [
                number
                for number, each in enumerate(values)
                if each.get(OWN_EPOCHS, self._epochs) == epochs
            ]
            outcomes = self._train([Head(values[number]) for number in chosen], epochs)
            found |= dict(zip(chosen, outcomes, strict=True))
        yield from (found[number] for number in range(len(trials)))

    def _train(self, heads: Sequence[Head], epochs: int) -> list[Outcome]:
        costs = [self._cost(head.values) for head in heads]
        found: list[Outcome] = [TuningError(self._budget.sentence(each)) for each in costs]
        within = [
            number
            for number, cost in enumerate(costs)
            if self._budget.allows(latency_ms=cost.latency_ms, params=cost.params)
        ]
        names = list(dict.fromkeys(heads[number].values["backbone"] for number in within))
        task = self._pictures.task(names, epochs=epochs, objective=self._aim)
        outcomes = train_heads([heads[number] for number in within], [task] * len(within))
        for number, outcome in zip(within, outcomes, strict=True):
            found[number] = _reported(outcome, costs[number])
        return found


def _reported(outcome: Metrics | Exception, cost: Cost) -> Outcome:
    """Returns metrics under the names that keras-tuner knows, with what the network costs."""
    if isinstance(outcome, Exception):
        return outcome
    own = ("seconds", "best_epoch")
    metrics = {name if name in own else f"val_{name}": value for name, value in outcome.items()}
    return {**metrics, "latency_ms": cost.latency_ms, "params": cost.params}


def repeated(
    pictures: Pictures, heads: Sequence[Head], *, repeats: int, epochs: int, objective: Objective
) -> list[tuple[float, ...]]:
    """Trains heads again and again, each time with other seeds and another split.

    Args:
        pictures: What they learn from.
        heads: The heads.
        repeats: How often.
        epochs: Passes over the training pictures.
        objective: What is returned.

    Returns:
        The objective of each head in each repeat before the first that failed.
    """
    names = list(dict.fromkeys(head.values["backbone"] for head in heads))
    task = pictures.task(names, epochs=epochs, objective=objective)
    tasks = [pictures.again(task, number) for number in range(1, repeats + 1)]
    pairs = [(head, each) for head in heads for each in tasks]
    with pictures.display.counting("repeats of the best", len(pairs), unit="heads") as count:
        outcomes = train_heads([head for head, _ in pairs], [each for _, each in pairs])
        count(len(pairs))
    reasons = [reason_of(each) for each in outcomes if isinstance(each, Exception)]
    for reason, times in collections.Counter(reasons).items():
        pictures.display.say(f"  {times} of {len(pairs)} repeats failed: {reason}")
    scores = [
        None if isinstance(outcome, Exception) else outcome[objective] for outcome in outcomes
    ]
    by_head = [scores[start : start + repeats] for start in range(0, len(pairs), repeats or 1)]
    return [before_failure(own) for own in by_head]
