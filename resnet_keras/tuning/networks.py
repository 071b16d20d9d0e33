"""Tier 2 of a search: which networks are fine-tuned, and which of them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from resnet_keras.training.display import Display
from resnet_keras.tuning.budget import Cost
from resnet_keras.tuning.engine import read_results
from resnet_keras.tuning.fine_search import NETWORK, REPEAT, FineSearch, Training
from resnet_keras.tuning.oracles import make_oracle
from resnet_keras.tuning.parameters import PARAMETERS, Choices
from resnet_keras.tuning.space import Head, Values, declare_fine
from resnet_keras.tuning.trials import TrialResult, before_failure, ranked

HEADS, NETWORKS, REPEATS = "heads", "networks", "repeats"
# Heads of tier 1 that tier 2 fine-tunes, and networks that it fine-tunes again.
FINE_HEADS, FINALISTS = 3, 2
# Hyperparameters by which a trial is told from others while it runs.
SHOWN = (NETWORK, REPEAT, "head", "unfrozen", "batch_norm", "layer_decay")
LEAST_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Networks:
    """Tier 2; the chief and the workers of a search each have one.

    Args:
        folder: That of the search.
        training: How networks are fine-tuned.
        named: Choices that the user named.
        trials: Fine-tunings; 0 for no tier 2.
        repeats: How often the best are fine-tuned again.
        cost: Returns what a network with the hyperparameters of a head costs.
        display: What is shown meanwhile.
    """

    folder: Path
    training: Training
    named: Mapping[str, Choices]
    trials: int
    repeats: int
    cost: Callable[[Values], Cost]
    display: Display

    def work(self) -> None:
        """Takes trials from the chief until there are none."""
        if self.trials:
            for name in (NETWORKS, REPEATS) if self.repeats else (NETWORKS,):
                self._search(keras_tuner.HyperParameters(), trials=1, name=name).search()

    def run(self, heads: Sequence[TrialResult]) -> list[TrialResult]:
        """Fine-tunes the best heads; returns the trials, with the values of their heads.

        Args:
            heads: The trials of tier 1.
        """
        if self.trials:
            self._try(self._best(heads))
        if self.trials and self.repeats:
            self._repeat()
        values = {each.name: each.values for each in heads}
        scores = {
            (each.values[NETWORK], each.values[REPEAT]): each.score
            for each in read_results(self.folder / REPEATS, "fine-tune")
        }
        return [
            dataclasses.replace(
                each,
                values={**values[each.values["head"]], **each.values},
                repeats=before_failure(scores.get((each.name, n)) for n in self._numbers),
            )
            for each in self._tried()
        ]

    @property
    def _numbers(self) -> range:
        return range(1, self.repeats + 1)

    def _tried(self) -> list[TrialResult]:
        return read_results(self.folder / NETWORKS, "fine-tune")

    def _best(self, heads: Sequence[TrialResult]) -> list[TrialResult]:
        """Returns the best heads, and second the usual one behind the backbone of the best."""
        best, *others = ranked(heads, self.training.objective)[:FINE_HEADS]
        # The first trial of each backbone; it may have failed.
        usual = next(each for each in heads if each.values["backbone"] == best.values["backbone"])
        second = [usual] if usual.score is not None and usual != best else []
        return [best, *second, *(each for each in others if each != usual)]

    def _try(self, best: Sequence[TrialResult]) -> None:
        hp = keras_tuner.HyperParameters()
        smaller = 3 * self.training.data.recipe.image_size // 4
        declare_fine(
            hp, heads={each.name: Head(each.values) for each in best}, named=self.named,
            image_sizes=[0, *([smaller] if smaller >= LEAST_SIZE else [])],
        )  # fmt: skip
        first = self._first([each.name for each in best])[: self.trials]
        self.display.say(f"fine-tuning: {self.trials} trials of {len(best)} heads")
        self._search(hp, first, trials=self.trials).search()

    def _first(self, heads: Sequence[str]) -> list[Values]:
        """Returns what is tried before chance draws: the usual way and, of two heads, another.

        Args:
            heads: The best one, the usual one and others; or just the best.
        """
        unfrozen, batch_norm = (
            self.named.get(name, PARAMETERS[name].tried) for name in ("unfrozen", "batch_norm")
        )
        usual: list[Values] = [{"head": name} for name in heads]
        alone: list[Values] = [{"head": heads[0], "unfrozen": 0}] if 0 in unfrozen else []
        # By the statistics of one's own pictures.
        own: list[Values] = [{"head": name, "batch_norm": "train"} for name in heads[1::-1]]
        able = unfrozen[0] and "train" in batch_norm[1:]
        return [*usual[:1], *alone, *usual[1:2], *(own if able else []), *usual[2:]]

    def _repeat(self) -> None:
        """Fine-tunes the best again, each time all of them with another seed and split."""
        best = [each.name for each in ranked(self._tried(), self.training.objective)[:FINALISTS]]
        every: list[Values] = [
            {NETWORK: name, REPEAT: number} for number in self._numbers for name in best
        ]
        hp = keras_tuner.HyperParameters()
        if not every:
            self._search(hp, trials=1, name=REPEATS).skip()
            return
        hp.Choice(NETWORK, best)
        hp.Choice(REPEAT, list(self._numbers))
        self.display.say(f"repeats of the best: {len(every)} trials of {len(best)} networks")
        self._search(hp, every, trials=len(every), name=REPEATS).search()

    def _search(
        self, hp: Any, first: Sequence[Values] = (), *, trials: int, name: str = NETWORKS
    ) -> FineSearch:
        # Trials that take minutes each are too few for anything but chance.
        oracle = make_oracle(
            "random", objective=self.training.objective, max_trials=trials,
            max_epochs=self.training.epochs, seed=self.training.seed, hyperparameters=hp,
            first=first,
        )  # fmt: skip
        return FineSearch(
            oracle, self.training, heads=self.folder / HEADS,
            networks=self.folder / NETWORKS, cost=self.cost, folder=self.folder / name,
            told=self._tell,
        )  # fmt: skip

    def _tell(self, result: TrialResult) -> None:
        values = ", ".join(f"{k} {result.values[k]}" for k in SHOWN if k in result.values)
        said = result.reason
        if result.score is not None:
            said = f"{self.training.objective} {result.score:.4f}"
        self.display.say(f"  {result.name}: {values}: {said}  {result.seconds:.0f} s")
