"""Finds a search again in its files, of which some may be torn or missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_tuner.engine.trial import Trial, TrialStatus

from resnet_keras.tuning import files
from resnet_keras.tuning.files import ENDED, SEARCH, TRIAL, Stored

if TYPE_CHECKING:
    from resnet_keras.tuning.record import SoundOracle


def rebuild(oracle: SoundOracle) -> None:
    """Gives an oracle the trials of its folder; those that have not ended wait to run again.

    Args:
        oracle: As it was made; it knows its folder.
    """
    known, oracle.ended = _read_search(oracle)
    oracle.trials, lost = {}, []
    for name in _names(oracle, known):
        trial = _found(oracle, name, known.get(name))
        if trial is None:
            lost.append(name)
        else:
            oracle.take(trial)
    oracle.replay()
    for name in lost:
        oracle.take(_drawn_again(oracle, name))
    oracle.trials = dict(sorted(oracle.trials.items()))
    oracle.start_order = list(oracle.trials)
    oracle.end_order = [name for name, trial in oracle.trials.items() if trial.status in ENDED]
    for trial in list(oracle.trials.values()):
        if trial.status not in ENDED:
            oracle.return_trial(trial)
    if oracle.trials:
        oracle.save()


def _read_search(oracle: SoundOracle) -> tuple[dict[str, dict[str, Any]], bool]:
    """Returns the values of all trials, and whether the search has ended, as far as known."""
    path = oracle.home / SEARCH
    state = files.read_mapping(path)
    values = (state or {}).get("values")
    if state is None or not isinstance(values, dict):
        files.set_aside(path, "what it said is taken from the files of the trials.")
        return {}, False
    good = {name: held for name, held in values.items() if isinstance(held, dict)}
    return good, state.get("ended") == oracle.digest()


def _names(oracle: SoundOracle, known: dict[str, Any]) -> list[str]:
    """Returns the names of all trials up to the last of which there is a trace."""
    width = len(str(oracle.max_trials))
    traces = {*files.trial_folders(oracle.home), *map(int, filter(str.isdecimal, known))}
    last = max((number for number in traces if number < oracle.max_trials), default=-1)
    return [f"{number:0{width}d}" for number in range(last + 1)]


def _found(oracle: SoundOracle, name: str, values: dict[str, Any] | None) -> Trial | None:
    """Returns a trial as its file, or else that of the search tells it."""
    folder = oracle.folder(name)
    stored = files.read_stored(folder)
    if stored is not None:
        return _restored(oracle, name, stored)
    files.set_aside(folder / TRIAL, f"trial {name} runs again, unless its outcome is known.")
    return None if values is None else oracle.new_trial(name, values)


def _restored(oracle: SoundOracle, name: str, stored: Stored) -> Trial:
    trial = oracle.new_trial(name, stored.values)
    trial.status, trial.score, trial.message = stored.status, stored.score, stored.message
    for metric, value in stored.metrics.items():
        trial.metrics.register(metric, oracle.direction_of(metric))
        trial.metrics.update(metric, value)
    return trial


def _drawn_again(oracle: SoundOracle, name: str) -> Trial:
    """Returns a trial of which only the number is known."""
    oracle.aim(int(name))
    drawn = oracle.populate_space(name)
    trial = oracle.new_trial(name, drawn.get("values") or {})
    if drawn["status"] != TrialStatus.RUNNING:
        trial.status = TrialStatus.FAILED
        trial.message = "Its files were lost, and nothing is left that was not tried."
    return trial
