"""What the report of a search says about luck and merit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnet_keras.evaluation.page import Html, joined, table, tag
from resnet_keras.tuning.tables import named, scored
from resnet_keras.tuning.trials import Objective, TrialResult, is_better, ranked


class Gain(NamedTuple):
    """By how much a trial is better than another one in the repeats that both have.

    Args:
        mean: Of the differences; above 0 where the first one is better.
        error: Standard error of the mean.
        repeats: How many.
    """

    mean: float
    error: float
    repeats: int

    @property
    def is_luck(self) -> bool:
        """Whether it is within the standard error."""
        return abs(self.mean) <= self.error


def gain_over(one: TrialResult, other: TrialResult, objective: Objective) -> Gain | None:
    """Returns the gain of a trial over another one; None with fewer than two common repeats.

    Repeats of one number have one split, so that its luck is not in their difference.
    """
    pairs = list(zip(one.repeats, other.repeats, strict=False))
    if len(pairs) < 2:
        return None
    gains = np.subtract(*np.transpose(pairs)) * (-1 if objective == "loss" else 1)
    error = float(np.std(gains, ddof=1)) / math.sqrt(len(pairs))
    return Gain(float(np.mean(gains)), error, len(pairs))


def merit_section(
    results: Sequence[TrialResult],
    objective: Objective,
    *,
    winner: TrialResult | None,
    default: TrialResult | None,
) -> Html:
    """Returns the trials that were repeated, and whether the winner is better than by luck."""
    finalists = [each for each in ranked(results, objective) if each.standard_error is not None]
    if not finalists or winner is None:
        return Html("")
    said, head = [], head_behind(winner, results)
    if winner.tier == "fine-tune":
        said = _against_others(winner, finalists, objective, called="winner")
        said += [gain_of_fine_tuning(winner, results, objective)]
    if head is not None:
        called = "winner" if head == winner else "head of the winner"
        others = {"the default": default} if default and default.merit is not None else {}
        said += _against_others(head, finalists, objective, called=called, others=others)
    rows = [
        (
            f"{named(each)}{_role(each, winner, head)}",
            f"{each.score:.4f}",
            scored(each),
            str(len(each.repeats)),
        )
        for each in finalists
    ]
    titles = ["trial", "score in the search", "mean ± standard error", "repeats"]
    return joined([*(tag("p", sentence) for sentence in said if sentence), table(titles, rows)])


def head_behind(trial: TrialResult, results: Sequence[TrialResult]) -> TrialResult | None:
    """Returns the trial of tier 1 that a network has its head of; that of a head is itself."""
    heads = {each.name: each for each in results if each.tier == "head"}
    return trial if trial.tier == "head" else heads.get(trial.values["head"])


def _role(trial: TrialResult, winner: TrialResult, head: TrialResult | None) -> str:
    if trial == winner:
        return ", the winner"
    return ", that of the winner" if trial == head else ""


def _against_others(
    trial: TrialResult,
    finalists: Sequence[TrialResult],
    objective: Objective,
    *,
    called: str,
    others: dict[str, TrialResult] | None = None,
) -> list[str]:
    """Returns sentences about a trial and the next best of its tier, and about it and others."""
    rivals = [each for each in finalists if each.tier == trial.tier and each != trial]
    compared = {"the runner-up": rivals[0]} if rivals else {}
    compared |= {name: other for name, other in (others or {}).items() if other != trial}
    return [
        comparison(trial, other, objective, called=called, name=name)
        for name, other in compared.items()
    ]


def comparison(
    trial: TrialResult, other: TrialResult, objective: Objective, *, called: str, name: str
) -> str:
    """Returns in a sentence whether a trial beats another one by more than luck.

    Args:
        trial: The one.
        other: The other one.
        objective: What they were scored by.
        called: What the one is.
        name: What the other one is, with its article.
    """
    one, gain = f"The {called}, {named(trial)},", gain_over(trial, other, objective)
    if gain is None:
        return (
            f"{one} and {name}, {named(other)}, were not both repeated: whether one is better by "
            "more than luck is not known."
        )
    if gain.is_luck:
        return (
            f"{one} and {name}, {named(other)}, are {abs(gain.mean):.4f} ± {gain.error:.4f} apart "
            f"in {gain.repeats} repeats, which is within the standard error of the difference: "
            "which of them is first may be luck."
        )
    verb = "beats" if gain.mean > 0 else "is behind"
    return (
        f"{one} {verb} {name}, {named(other)}, by {abs(gain.mean):.4f} ± {gain.error:.4f} in "
        f"{gain.repeats} repeats, which is more than the standard error of the difference."
    )


def gain_of_fine_tuning(
    winner: TrialResult, results: Sequence[TrialResult], objective: Objective
) -> str:
    """Returns in a sentence what fine-tuning made of the head; empty if the winner is a head.

    Args:
        winner: The winner.
        results: All trials.
        objective: What they were scored by.
    """
    head = head_behind(winner, results)
    if winner.tier == "head" or head is None or head.score is None or winner.score is None:
        return ""
    if winner.values.get("unfrozen") == 0:
        return "No fine-tuned network had a better score than the best head alone, which won."
    gain = gain_over(winner, head, objective)
    if gain is not None:
        return _repeated_gain(gain, head)
    both = (
        f"On the same validation pictures {named(head)} had {head.score:.4f} when it was searched, "
        f"and {winner.score:.4f} after the network behind it was fine-tuned"
    )
    if is_better(winner.score, head.score, objective):
        return f"{both}; it was not repeated, so how much of that is luck is not known."
    return f"{both}: fine-tuning gained nothing, and the head alone trains in seconds."


def _repeated_gain(gain: Gain, head: TrialResult) -> str:
    size = f"{abs(gain.mean):.4f} ± {gain.error:.4f}"
    where = f"over {named(head)} alone, in {gain.repeats} repeats with the same pictures"
    if gain.is_luck:
        return (
            f"Fine-tuning the network made a difference of {size} {where}: that is within the "
            "standard error, and the head alone trains in seconds."
        )
    if gain.mean > 0:
        return f"Fine-tuning the network gained {size} {where}: more than the standard error."
    return f"Fine-tuning the network lost {size} {where}: the head alone is better."
