"""What the tests of the boundary cache run: a small network, pictures, and a count of reads."""

import dataclasses

import keras
import numpy as np

from resnet_keras.builder import build_resnet
from resnet_keras.data import Augmentation, load_images
from resnet_keras.records import Recipe
from resnet_keras.training.cache import Views, compute_activations
from tests.pictures import make_arrays

STILL = Views(1, Augmentation(flip="none"), seed=0)
VARIED = Views(5, Augmentation(flip="horizontal", rotation=15, brightness=0.2), seed=3)
SIZE = 32


def make_images(count=20, *, seed=0, **options):
    pictures, labels = make_arrays(3, count=count, size=SIZE, seed=seed)
    return images_of(pictures, labels, **options)


def images_of(pictures, labels, **options):
    recipe = Recipe(image_size=SIZE, crop=1.0)
    options = {"validation": 0, "test": 0, "batch_size": 7} | options
    return load_images(pictures, labels=labels, recipe=recipe, **options).train


def build(**arguments):
    keras.utils.set_random_seed(1)
    arguments = {
        "depth": 8, "stem": "cifar", "num_classes": 3, "width": 0.5, "zero_init_residual": False,
    } | arguments  # fmt: skip
    model = build_resnet(**arguments)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.endswith("_bn"):
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
    return model


def compute(model, images, boundary, **options):
    options = {"views": STILL, "home": None, "bits": 8, "dtype": "float32"} | options
    return compute_activations(model, images, boundary, **options)


def every(kept):
    """Returns all activations, `(views, pictures, ...)`."""
    return kept.array()[kept.places]


class CountingStore:
    """Reads pictures from a store and counts them."""

    def __init__(self, store):
        self.store, self.count = store, 0

    def pictures(self, rows):
        self.count += len(rows)
        return self.store.pictures(rows)


def counting(images):
    store = CountingStore(images.store)
    return dataclasses.replace(images, store=store), store
