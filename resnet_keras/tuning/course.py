"""The course of a search: costs, heads, repeats of the best, and networks."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import yaml

from resnet_keras.errors import TuningError, WorkersError
from resnet_keras.training import runs
from resnet_keras.tuning.budget import Budget, Cost, Cut
from resnet_keras.tuning.chief import JOIN_SECONDS, LOST_SECONDS
from resnet_keras.tuning.costs import measure_backbones, read_costs
from resnet_keras.tuning.engine import read_results
from resnet_keras.tuning.fine_search import Training
from resnet_keras.tuning.head_search import HeadSearch, Pictures, repeated
from resnet_keras.tuning.networks import HEADS, Networks
from resnet_keras.tuning.oracles import Algorithm, make_oracle
from resnet_keras.tuning.parameters import PARAMETERS, Choices
from resnet_keras.tuning.space import Head, Values, declare_head
from resnet_keras.tuning.trials import TrialResult, ranked

POLL_SECONDS = 0.5
SMALLEST_HEAD = {"pooling": "avg", "hidden_layers": 0, "normalization": "none"}


@dataclasses.dataclass(frozen=True)
class Course:
    """A search in its folder; its chief and its workers each have one.

    Args:
        folder: The folder.
        pictures: What heads learn from.
        training: How networks are fine-tuned.
        budget: What a network may cost.
        named: Choices that the user named.
        algorithm: Of keras-tuner.
        max_trials: Trials of tier 1.
        finalists: Heads that are repeated.
        repeats: How often.
        fine_tunes: Trials of tier 2.
        fine_repeats: How often the best of these are repeated.
    """

    folder: Path
    pictures: Pictures
    training: Training
    budget: Budget
    named: Mapping[str, Choices]
    algorithm: Algorithm
    max_trials: int
    finalists: int
    repeats: int
    fine_tunes: int
    fine_repeats: int

    def config(self) -> dict[str, Any]:
        """Returns what a search is made of, and must be again to be resumed."""
        data, training = self.training.data, self.training
        own = (
            "algorithm", "max_trials", "finalists", "repeats", "fine_tunes", "fine_repeats",
        )  # fmt: skip
        return {
            "data": {"fingerprint": data.fingerprint, "classes": list(data.class_names)},
            "recipe": data.recipe.to_dict(),
            "batch_size": data.train.batch_size,
            "backbones": {name: each.options() for name, each in training.backbones.items()},
            "space": {name: list(values) for name, values in self.named.items()},
            **{name: getattr(self, name) for name in own},
            "objective": training.objective,
            "epochs": training.head_epochs,
            "fine_epochs": training.epochs,
            "budget": dataclasses.asdict(self.budget),
            "augmentation": dataclasses.asdict(training.augmentation),
            "views": self.pictures.views,
            "precision": training.precision,
            "seed": training.seed,
        }

    def work(self) -> None:
        """Takes trials of both tiers from the chief until there are none.

        Raises:
            WorkersError: If the chief never comes, has other settings, or is lost.
        """
        self._await_chief()
        self._head_search(keras_tuner.HyperParameters()).search()
        self.networks.work()

    def _await_chief(self) -> None:
        """Waits until the chief has opened the folder, which must be empty before."""
        own = yaml.safe_load(yaml.safe_dump(self.config()))
        begin, seen = time.monotonic(), None
        while seen != own:
            time.sleep(POLL_SECONDS)
            path = self.folder / runs.CONFIG
            # A chief that is forced to begin anew deletes what an older search left.
            seen = runs.read_config(self.folder) if path.exists() else None
            waited = time.monotonic() - begin
            if seen != own and waited > (JOIN_SECONDS if seen is None else LOST_SECONDS):
                raise WorkersError(
                    f"A worker waited for the chief of the search in {self.folder}, which "
                    + ("did not come" if seen is None else "has other pictures or settings")
                    + ": start chief and workers with the same command on a shared folder."
                )

    def run(self) -> list[TrialResult]:
        """Runs both tiers; returns all trials, those of the best heads with their repeats.

        Raises:
            TuningError: If no head is within the budget, or none succeeded.
        """
        training = self.training
        measure_backbones(
            self.folder, training.backbones, stages=self._last_stages,
            image_size=training.data.recipe.image_size, precision=training.precision,
            seed=training.seed,
        )  # fmt: skip
        self._search_heads()
        heads = read_results(self.folder / HEADS, "head")
        if not ranked(heads, training.objective):
            raise TuningError(
                f"None of the {len(heads)} trials succeeded; the last one failed because: "
                f"{heads[-1].reason if heads else 'there was none'}"
            )
        heads = self._with_repeats(heads)
        return [*heads, *self.networks.run(heads)]

    @property
    def networks(self) -> Networks:
        """Tier 2."""
        return Networks(
            self.folder, self.training, self.named, trials=self.fine_tunes,
            repeats=self.fine_repeats, cost=self.cost, display=self.pictures.display,
        )  # fmt: skip

    def cost(self, values: Values) -> Cost:
        """Returns what a backbone costs together with a head."""
        cut = values["backbone"], values["stage"]
        return self._costs[cut].with_head(values, classes=len(self.training.data.class_names))

    @property
    def _last_stages(self) -> Choices:
        return self.named.get("stage", PARAMETERS["stage"].tried)

    @functools.cached_property
    def _costs(self) -> dict[Cut, Cost]:
        return read_costs(self.folder)

    def _stages(self) -> dict[str, list[int]]:
        """Returns the stages of each backbone that are searched: named ones within the budget."""
        least = {
            (name, stage): self.cost({"backbone": name, "stage": stage, **SMALLEST_HEAD})
            for name, stage in self._costs
        }
        if not least:
            raise TuningError(
                f"No backbone of the search has any of the stages {list(self._last_stages)}."
            )
        found: dict[str, list[int]] = {}
        for name, stage in self.budget.fitting(least):
            found.setdefault(name, []).append(stage)
        return {name: sorted(stages, reverse=True) for name, stages in found.items()}

    def _search_heads(self) -> None:
        stages, hp = self._stages(), keras_tuner.HyperParameters()
        declare_head(hp, stages=stages, views=self.pictures.views, named=self.named)
        # The usual head of each backbone first: what all others are compared with.
        first = [{"backbone": name} for name in stages][: self.max_trials]
        with self.pictures.display.counting("heads", self.max_trials, unit="trials") as count:
            self._head_search(hp, first, told=lambda result: count(1)).search()

    def _head_search(self, hp: Any, first: Sequence[Values] = (), **options: Any) -> HeadSearch:
        oracle = make_oracle(
            self.algorithm, objective=self.training.objective, max_trials=self.max_trials,
            max_epochs=self.training.head_epochs, seed=self.training.seed, hyperparameters=hp,
            first=first,
        )  # fmt: skip
        return HeadSearch(
            oracle, self.pictures, epochs=self.training.head_epochs,
            objective=self.training.objective, cost=self.cost, budget=self.budget,
            folder=self.folder / HEADS, **options,
        )  # fmt: skip

    def _with_repeats(self, heads: Sequence[TrialResult]) -> list[TrialResult]:
        """Returns the trials, the best ones and the first with what they repeat."""
        if not self.repeats:
            return list(heads)
        best = ranked(heads, self.training.objective)[: self.finalists]
        chosen = [*best, *(each for each in heads[:1] if each.score is not None)]
        chosen = list({result.name: result for result in chosen}.values())
        scores = repeated(
            self.pictures, [Head(each.values) for each in chosen], repeats=self.repeats,
            epochs=self.training.head_epochs, objective=self.training.objective,
        )  # fmt: skip
        found = {each.name: own for each, own in zip(chosen, scores, strict=True)}
        return [dataclasses.replace(each, repeats=found.get(each.name, ())) for each in heads]
