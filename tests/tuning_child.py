"""A search over nothing much, in a process of its own that may be killed.

    python tests/tuning_child.py FOLDER '{"algorithm": "random", "max_trials": 6, ...}'

Every trial writes its number, its process and the time into FOLDER/calls when it begins.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import keras_tuner
import numpy as np

from resnet_keras.errors import DivergedError, ResNetKerasError
from resnet_keras.tuning.engine import SearchEngine
from resnet_keras.tuning.oracles import make_oracle

DEFAULTS = {
    "algorithm": "random",
    "max_trials": 6,
    "at_once": 1,
    "seconds": 0.0,
    "seed": 0,
    "join_seconds": 60.0,
    "lost_seconds": 3.0,
}


def space():
    """Returns hyperparameters with names that are declared twice, as those of the real search."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["a", "b"], default="a")
    for kind, sizes in {"a": [1, 2, 3], "b": [10, 20, 30]}.items():
        with hp.conditional_scope("kind", [kind]):
            hp.Choice("size", sizes, default=sizes[0])
    hp.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def oracle(**options):
    options = {"algorithm": "random", "max_trials": 6, "seed": 0, **options}
    algorithm = options.pop("algorithm")
    return make_oracle(
        algorithm, objective="accuracy", max_epochs=9, hyperparameters=space(), **options
    )


def accuracy(values):
    """Returns an objective that follows from the values."""
    return {"val_accuracy": 1 / (1 + abs(np.log10(values["rate"]) + 2) + values["size"] / 100)}


def take_memory(values):
    held = []
    while True:
        held.append(np.ones(2**24))


def take_tensors(values):
    import tensorflow as tf

    held = []
    while True:
        held.append(tf.ones([2**24], tf.float64))


def diverge(values):
    raise DivergedError("The loss is nan in epoch 3.")


def die(values):
    os.kill(os.getpid(), 9)


FAULTS = {
    "raise": lambda values: [][0],
    "nan": lambda values: {"val_accuracy": float("nan")},
    "diverge": diverge,
    "memory": take_memory,
    "tensors": take_tensors,
    "die": die,
}


class Search(SearchEngine):
    """Calls itself a training.

    Args:
        faults: By the name of a trial, what goes wrong in it.
        seconds: How long a trial takes.
    """

    def __init__(self, *arguments, faults=None, seconds=0.0, **more):
        super().__init__(*arguments, **more)
        self.faults, self.seconds = faults or {}, seconds
        self.calls = []

    def train(self, trials):
        names = [trial.trial_id for trial in trials]
        self.calls.append(names)
        for name in names:
            with (Path(self.project_dir) / "calls").open("a") as file:
                file.write(f"{name} {os.getpid()} {time.time()}\n")
        for trial in trials:
            time.sleep(self.seconds)
            fault = self.faults.get(trial.trial_id)
            values = trial.hyperparameters.values
            yield (FAULTS[fault] if fault else accuracy)(values)


def main(folder, options):
    options = DEFAULTS | options
    made = {name: options.pop(name) for name in ("algorithm", "max_trials", "seed")}
    Search(
        oracle(**made),
        folder=Path(folder),
        tier="head",
        told=lambda result: print(result.name, result.status, flush=True),
        **options,
    ).search()


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except ResNetKerasError as error:
        sys.exit(f"error: {error}")
