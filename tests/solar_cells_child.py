"""Fine-tunes on 255 solar cells: python -m tests.solar_cells_child FOLDER BATCH_NORM DEVICES

The devices are logical ones on TensorFlow; on JAX they are those that XLA was told of. Losses and
weights go to FOLDER/found.npz.
"""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from elpv_dataset.utils import load_dataset

from resnet_keras import Phase, build_resnet, fine_tune, load_images, weights_info
from tests.named_weights import named_weights

# One draw of pictures. Here a last bit soon turns a ReLU on or off: devices that round otherwise
# than one alone move weights by 1e-3.
SEED = 4


def load_data():
    cells, probabilities, _ = load_dataset()
    chosen = np.random.default_rng(SEED).permutation(len(cells))[:355]
    pictures = cells[chosen][..., None].astype("float32")
    pictures = tf.image.resize(pictures, (64, 64), antialias=True).numpy().round()
    labels = (probabilities[chosen] >= 0.5).astype(int)
    recipe = dataclasses.replace(weights_info("open_nsfw").record.recipe, image_size=64, crop=1.0)
    data = load_images(
        pictures.astype("uint8").repeat(3, axis=-1),
        labels=labels, recipe=recipe, validation=100 / 355, test=0, seed=SEED,
    )  # fmt: skip
    assert len(data.train) == 255  # in batches of 32 the last one is uneven
    return data


def main(folder, batch_norm, devices):
    if keras.backend.backend() == "tensorflow":
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
        tf.config.set_logical_device_configuration(cpu, logical)
    data = load_data()
    keras.utils.set_random_seed(SEED)
    model = build_resnet(weights="open_nsfw", num_classes=2)
    before = named_weights(model, "before")
    result = fine_tune(
        model,
        data,
        run_dir=Path(folder) / "run",
        phases=[Phase("head", epochs=3), Phase("stage4", epochs=3, batch_norm=batch_norm)],
        strategy="none" if int(devices) == 1 else "mirrored",
        precision="float32",
        seed=SEED,
        quiet=True,
    )
    losses = [[row["loss"], row["val_loss"]] for row in result.history]
    after = named_weights(result.model, "after")
    np.savez(Path(folder) / "found.npz", losses=losses, **before, **after)


if __name__ == "__main__":
    main(*sys.argv[1:])
