"""What the report of a search says about luck and merit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_keras.evaluation.page import Html, joined, table, tag
from resnet_keras.tuning.analysis import value_of
from resnet_keras.tuning.tables import named, scored
from resnet_keras.tuning.trials import Objective, TrialResult, is_better, ranked


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
    fine_tuned = gain_of_fine_tuning(winner, results, objective)
    # Networks are trained once; it is their head that was repeated.
    winner = next((each for each in finalists if each.name == winner.values.get("head")), winner)
    rows = [
        (
            f"{named(each)}{', that of the winner' if each == winner else ''}",
            f"{each.score:.4f}",
            scored(each),
            str(len(each.repeats)),
        )
        for each in finalists
    ]
    head = ["trial", "score in the search", "mean ± standard error", "repeats"]
    others = {"the runner-up": next((each for each in finalists if each != winner), None)}
    if default is not None and default != winner and default.merit is not None:
        others["the default"] = default
    said = [
        comparison(winner, other, objective, name=name)
        for name, other in others.items()
        if other is not None
    ]
    said += [fine_tuned] if fine_tuned else []
    return joined([*(tag("p", sentence) for sentence in said), table(head, rows)])


def comparison(winner: TrialResult, other: TrialResult, objective: Objective, *, name: str) -> str:
    """Returns in a sentence whether the winner beats another trial by more than luck.

    Args:
        winner: The winner.
        other: The other one.
        objective: What they were scored by.
        name: What the other one is.
    """
    gain = value_of(winner, objective) - value_of(other, objective)
    both = (
        f"The head of the winner, {named(winner)}, and {name}, {named(other)}, are {abs(gain):.4f}"
    )
    if winner.standard_error is None or other.standard_error is None:
        return f"{both} apart, but were not both repeated: whether that is luck is not known."
    # Of a difference of two independent means.
    error = math.hypot(winner.standard_error, other.standard_error)
    if abs(gain) <= error:
        return (
            f"{both} ± {error:.4f} apart, which is within the standard error of the difference: "
            "which of them is first may be luck."
        )
    verb = "beats" if gain > 0 else "is behind"
    return (
        f"The head of the winner, {named(winner)}, {verb} {name}, {named(other)}, by "
        f"{abs(gain):.4f} ± {error:.4f}, which is more than the standard error of the difference."
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
    heads = {each.name: each for each in results if each.tier == "head"}
    head = heads.get(winner.values.get("head", ""))
    if winner.tier == "head" or head is None or head.score is None or winner.score is None:
        return ""
    if winner.values.get("unfrozen") == 0:
        return "No fine-tuned network had a better score than the best head alone, which won."
    both = (
        f"On the same validation pictures {named(head)} had {head.score:.4f} when it was searched, "
        f"and {winner.score:.4f} after the network behind it was fine-tuned"
    )
    if is_better(winner.score, head.score, objective):
        return f"{both}; networks are trained once, so how much of that is luck is not known."
    return f"{both}: fine-tuning gained nothing, and the head alone trains in seconds."
