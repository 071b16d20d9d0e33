"""The boundary cache: what the frozen part makes of every picture, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data import Images
from resnet_keras.distribution.compiled import compiled, computed_by
from resnet_keras.folding import Folded, FrozenPart
from resnet_keras.layers import functional, record_of
from resnet_keras.stages import Boundary, boundary_layer
from resnet_keras.training.extraction import extract, picture_reader, plan_batches, row_reader
from resnet_keras.training.packing import Bits, Packing, Unpack
from resnet_keras.training.rows import DiskRows, MemoryRows, Store
from resnet_keras.training.views import EXTRACTION_BATCH, Views, derived_seed

__all__ = [
    "EXTRACTION_BATCH",
    "Activations",
    "Views",
    "activation_bytes",
    "cache_key",
    "compute_activations",
    "derived_seed",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """The output of the frozen part for each view of each picture.

    Args:
        boundary: Where the network was cut.
        key: What the activations depend on besides the pictures, as `cache_key` returns it.
        packing: How a row of the store holds the activations of a picture.
        exact: Whether they are what the network computes, to the bit, and not an approximation.
        store: Where they are.
        places: Row in the store of each view of each picture, `(views, pictures)`; -1 for
            pictures that were not wanted.
    """

    boundary: Boundary
    key: str
    packing: Packing
    exact: bool
    store: Store = dataclasses.field(repr=False)
    places: np.ndarray = dataclasses.field(repr=False)

    @property
    def views(self) -> int:
        """Number of views of each picture."""
        return len(self.places)

    def inputs(self) -> tuple[Any, Any]:
        """Returns the input of a network that trains from here, and the features behind it.

        Returns:
            A `keras.Input` for what `batch` returns, and float32 `(batch, *packing.shape)`.
        """
        rows = keras.Input((self.packing.row_bytes,), dtype="uint8", name="rows")
        return rows, Unpack(self.packing, dtype="float32", name="unpack")(rows)

    def batch(self, pictures: np.ndarray, views: np.ndarray | int = 0) -> np.ndarray:
        """Returns the rows, uint8 `(k, packing.row_bytes)`, of some pictures in some views.

        Args:
            pictures: Indices, `(k,)`.
            views: View of each of them, `(k,)`, or one for all.

        Raises:
            RunError: If they can no longer be read.
        """
        return self.store.read(self.places[views, pictures])

    def array(self) -> np.ndarray:
        """Returns all rows of the store, float32 `(rows, *packing.shape)`, in memory."""
        rows = self.store.read(np.arange(len(self.store.missing)))
        return np.asarray(self.packing.unpack(rows))


def compute_activations(
    model: keras.Model,
    images: Images,
    boundary: Boundary,
    *,
    views: Views,
    home: Path | None,
    bits: Bits,
    dtype: str,
    own: np.ndarray | None = None,
    source: Activations | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Activations:
    """Runs every view of every picture through the frozen part, unless a cache has it already.

    What is computed for a picture depends on the picture, the view and the key alone, and for
    further views on its index, to the bit on one machine: not on the other pictures, nor on what
    was there before.

    Args:
        model: The whole network; batch norm runs in inference mode, folded.
        images: The pictures.
        boundary: The last part that is run.
        views: Which versions of each picture.
        home: Folder of the caches, one folder a key, which runs with other pictures, splits and
            heads share; None to keep the activations in memory.
        bits: Of each value of a map, 32, 16 or 8, see `Packing`.
        dtype: What the convolutions compute in, see `Folded`.
        own: Which pictures are wanted, bool `(pictures,)`; None for all of them.
        source: Activations at an earlier boundary, of the same pictures and views, to go on from.
        on_batch: Called with the number of activations that were there, and after each batch
            with the number of those that came; it may raise to stop.

    Returns:
        The activations.

    Raises:
        RunError: If the cache cannot be written; what was complete stays.
        DataError: If a picture can no longer be read.
    """
    packing = packing_at(model, boundary, images.recipe.image_size, bits=bits, dtype=dtype)
    key = cache_key(model, images, boundary, bits=bits, dtype=dtype, source=source)
    ids, places = views.rows(images, own)
    store: Store = (
        DiskRows(home / key, ids, packing.row_bytes)
        if home
        else MemoryRows(len(ids), packing.row_bytes)
    )
    exact = packing.is_exact(dtype) and (source is None or source.exact)
    activations = Activations(boundary, key, packing, exact, store, places)
    on_batch(int((places >= 0).sum() - store.missing.sum()))
    if batches := plan_batches(places, store.missing):
        read = row_reader(source.batch) if source else picture_reader(images, views)
        network = _network(model, activations, dtype=dtype, source=source, shape=images.shape)
        extract(batches, store, read=read, network=network, on_batch=on_batch)
    return activations


def _network(
    model: keras.Model,
    wanted: Activations,
    *,
    dtype: str,
    source: Activations | None,
    shape: tuple[int, ...],
) -> Callable[[Any], Any]:
    """Returns the function from pixels, or from rows of the source, to rows; traced once."""
    after = source.boundary if source else None
    part = FrozenPart(Folded(model, after=after, through=wanted.boundary, dtype=dtype))

    def run(values: Any) -> Any:
        inputs = source.packing.unpack(values) if source else values
        return wanted.packing.pack(part(inputs))

    each, kind = ((source.packing.row_bytes,), tf.uint8) if source else (shape, tf.float32)
    rows = tf.TensorSpec((EXTRACTION_BATCH, *each), kind)
    return compiled(run, rows, variables=part.variables)


def packing_at(
    model: keras.Model, boundary: Boundary, image_size: int, *, bits: Bits, dtype: str
) -> Packing:
    """Returns how the activations of one picture at the boundary are kept."""
    probe = functional(model.input, boundary_layer(model, boundary).output)
    picture = keras.KerasTensor((1, image_size, image_size, model.input.shape[-1]))
    shape = tuple(probe.compute_output_spec(picture).shape[1:])
    return Packing.choose(shape, bits=bits, dtype=dtype)


def activation_bytes(model: keras.Model, boundary: Boundary, image_size: int, *, bits: Bits) -> int:
    """Returns the bytes that the activations of one view of one picture take."""
    return packing_at(model, boundary, image_size, bits=bits, dtype="float32").row_bytes


def cache_key(
    model: keras.Model,
    images: Images,
    boundary: Boundary,
    *,
    bits: Bits,
    dtype: str,
    source: Activations | None = None,
) -> str:
    """Returns what the activations depend on besides pictures and views, as a digest.

    That is the network up to the boundary with its weights, how pixels are prepared, and how the
    result is computed and kept; not names, classes, or anything behind the boundary.
    """
    record, recipe = record_of(model), images.recipe.to_dict()
    behind = {"last_stage", "head", "head_normalization", "head_activation"}
    behind |= set() if boundary == "pool" else {"pooling"}
    facts = {
        "weights": _digest(model, boundary),
        "boundary": boundary,
        "spec": {k: v for k, v in record.spec.to_dict().items() if k not in behind},
        "recipe": {**recipe, "mean": record.recipe.mean, "std": record.recipe.std},
        "code": packing_at(model, boundary, images.recipe.image_size, bits=bits, dtype=dtype).code,
        "dtype": dtype,
        "folded": True,
        "source": source.key if source and not source.exact else None,
        **computed_by(model.variables[0]),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _digest(model: keras.Model, boundary: Boundary) -> str:
    part = functional(model.input, boundary_layer(model, boundary).output)
    digest = hashlib.sha256()
    for layer in part.layers:
        for variable in layer.weights:
            digest.update(f"{layer.name}/{variable.name}".encode())
            digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
