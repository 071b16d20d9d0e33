"""A script of a user over two devices: python -m tests.tuning_mirrored_child FOLDER KIND SPACE

KIND is a key of `TUNERS`, SPACE is JSON for `ResNetHyperModel`. Prints, as JSON, what became of
the trials, and what the best model scores when it is loaded.
"""

import json
import sys

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from resnet_keras.data import load_images
from resnet_keras.tuning import ResNetHyperModel
from tests.pictures import make_arrays

TUNERS = {
    "random": (keras_tuner.RandomSearch, {"max_trials": 1}),
    "hyperband": (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
}


def main(folder, algorithm, space):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.utils.set_random_seed(0)
    pictures, labels = make_arrays(5, count=20, size=32)
    data = load_images(
        pictures, labels=labels, image_size=32, batch_size=32, validation=0.35, test=0.0
    )
    assert (len(data.train), len(data.val)) == (65, 35)  # the last batch has one picture
    make, options = TUNERS[algorithm]
    tuner = make(
        ResNetHyperModel(num_classes=5, depths=[18], weights=None, width=0.125, space=space),
        objective="val_accuracy", directory=folder, project_name="mine",
        distribution_strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), **options,
    )  # fmt: skip
    tuner.search(data.train.dataset(), validation_data=data.val.dataset(), verbose=0)
    trials = [
        [trial.status, trial.message, trial.hyperparameters.values.get("tuner/epochs", 1)]
        for trial in tuner.oracle.trials.values()
    ]
    logits = np.array(tuner.get_best_models()[0](data.val.pictures(range(35))))
    right = float(np.mean(logits.argmax(-1) == data.val.labels))
    score = tuner.oracle.get_best_trials()[0].score
    print(json.dumps({"trials": trials, "score": score, "right": right}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
