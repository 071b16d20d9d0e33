"""The boundary cache: what the frozen part makes of every picture, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.atomic import atomic_path
from resnet_keras.data import Augmentation, Images, flip_views
from resnet_keras.errors import RunError
from resnet_keras.layers import functional, record_of
from resnet_keras.stages import Boundary, boundary_layer

# Pictures that go through the frozen part together: its speed no longer grows behind this.
EXTRACTION_BATCH = 32
# A view, and the pictures of a batch.
Place = tuple[int, slice]


@dataclasses.dataclass(frozen=True)
class Views:
    """Which versions of each picture are cached.

    The first ones are the picture and its flips, which are exact; further ones are flipped in
    turn and augmented in every other respect as well, drawn from the seed.

    Args:
        count: Number of views, at least 1.
        augmentation: What the pictures are varied by.
        seed: Of the further views.
    """

    count: int
    augmentation: Augmentation
    seed: int

    def transform(self, view: int) -> Callable[[Any], Any]:
        """Returns the function from a batch of uint8 pictures to this view of them."""
        still = dataclasses.replace(self.augmentation, flip="none")
        layers = still.layers(derived_seed(self.seed, view))

        def apply(images: Any) -> Any:
            flips = flip_views(images, self.augmentation.flip)
            images = flips[view % len(flips)]
            if view < len(flips):
                return images
            images = tf.cast(images, tf.float32)
            for layer in layers:
                images = layer(images, training=True)
            return images

        return apply


def derived_seed(*values: int) -> int:
    """Returns a seed of 31 bits that depends on all the values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:4], "big") >> 1


@dataclasses.dataclass(frozen=True)
class Activations:
    """The output of the frozen part for each view of each picture.

    Args:
        boundary: Where the network was cut.
        values: Array or memory map, `(views, pictures, ...)`.
    """

    boundary: Boundary
    values: np.ndarray


def activation_shape(model: keras.Model, boundary: Boundary, image_size: int) -> tuple[int, ...]:
    """Returns the shape of one picture's activations at the boundary."""
    probe = functional(model.input, boundary_layer(model, boundary).output)
    picture = keras.KerasTensor((1, image_size, image_size, model.input.shape[-1]))
    return tuple(probe.compute_output_spec(picture).shape[1:])


def compute_activations(
    model: keras.Model,
    images: Images,
    boundary: Boundary,
    *,
    views: Views,
    source: Activations | None = None,
    file: Path | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Activations:
    """Runs every view of every picture through the frozen part.

    Args:
        model: The whole network; batch norm runs in inference mode.
        images: The pictures.
        boundary: The last part that is run.
        views: Which versions of each picture.
        source: Activations at an earlier boundary, of the same views, to go on from.
        file: Where the activations are kept, memory-mapped; in memory if None.
        on_batch: Called with the number of pictures done after each batch.

    Returns:
        The activations; those of an earlier, complete file if there is one.
    """
    shape = activation_shape(model, boundary, images.recipe.image_size)
    shape = (views.count, len(images), *shape)
    results = _results(model, images, boundary, views=views, source=source, on_batch=on_batch)
    if file is None:
        values = np.empty(shape, np.float32)
        for place, result in results:
            values[place] = result
        return Activations(boundary, values)
    if not file.exists():
        _write(file, shape, results)
    return Activations(boundary, np.load(file, mmap_mode="r"))


def _write(file: Path, shape: tuple[int, ...], results: Iterator[tuple[Place, np.ndarray]]) -> None:
    # Written in order, not through a memory map: on a full disk that would kill the process.
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with atomic_path(file, RunError) as temporary, temporary.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for _, result in results:
            opened.write(np.ascontiguousarray(result, "<f4").data)


def _forward(
    model: keras.Model, boundary: Boundary, source: Activations | None
) -> Callable[[Any], Any]:
    start = boundary_layer(model, source.boundary).output if source else model.input
    part = functional(start, boundary_layer(model, boundary).output)
    return inference_function(part)


def inference_function(model: keras.Model) -> Callable[[Any], Any]:
    """Returns the model in inference mode, traced once for any size of batch."""
    signature = tf.TensorSpec((None, *model.input.shape[1:]), model.input.dtype)
    traced = tf.function(lambda batch: model(batch, training=False)).get_concrete_function(
        signature
    )
    return lambda batch: traced(tf.cast(batch, model.input.dtype))


def _results(
    model: keras.Model,
    images: Images,
    boundary: Boundary,
    *,
    views: Views,
    source: Activations | None,
    on_batch: Callable[[int], None],
) -> Iterator[tuple[Place, np.ndarray]]:
    """Yields the activations batch by batch, in the order in which they are stored."""
    run = _forward(model, boundary, source)
    for view in range(views.count):
        transform = views.transform(view)
        for start in range(0, len(images), EXTRACTION_BATCH):
            indices = np.arange(start, min(start + EXTRACTION_BATCH, len(images)))
            if source is None:
                batch = transform(images.pictures(indices))
            else:
                batch = source.values[view, indices]
            yield (view, slice(start, start + len(indices))), np.asarray(run(batch))
            on_batch(len(indices))


def cache_key(model: keras.Model, images: Images, boundary: Boundary, *, views: Views) -> str:
    """Returns what the activations depend on, as a digest: equal keys, equal activations."""
    part = functional(model.input, boundary_layer(model, boundary).output)
    digest = hashlib.sha256()
    for layer in part.layers:
        for variable in layer.weights:
            digest.update(f"{layer.name}/{variable.name}".encode())
            digest.update(np.ascontiguousarray(variable).tobytes())
    facts = {
        "weights": digest.hexdigest(),
        "boundary": boundary,
        "record": record_of(model).to_dict(),
        "data": images.fingerprint,
        "views": dataclasses.asdict(views),
        "policy": keras.config.dtype_policy().name,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
