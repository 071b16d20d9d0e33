"""The pooled features of all stages of a backbone, computed once for every view of each picture."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from resnet_keras.architectures import Pooling
from resnet_keras.data import Images
from resnet_keras.distribution.compiled import compiled
from resnet_keras.folding import Folded, FrozenPart
from resnet_keras.layers import record_of
from resnet_keras.stages import Boundary, boundary_layer
from resnet_keras.training.cache import Views, cache_key
from resnet_keras.training.extraction import extract, picture_reader, plan_batches
from resnet_keras.training.packing import Packing
from resnet_keras.training.rows import DiskRows, Store
from resnet_keras.training.views import EXTRACTION_BATCH

POOLINGS: tuple[Pooling, ...] = ("avg", "max")
# A row of ResNet-50 takes 30 KB.
ROWS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What heads see of each picture: the outputs of the stages, pooled.

    Args:
        channels: Channels of each stage, by its number.
        store: Rows of the averages and then the maxima of the first stage, of the second, ...
        places: Row in the store of each view of each picture, `(views, pictures)`.
        folder: Where there is room for another copy.
    """

    channels: dict[int, int]
    store: Store = dataclasses.field(repr=False)
    places: np.ndarray = dataclasses.field(repr=False)
    folder: Path

    @property
    def width(self) -> int:
        """Values of a row."""
        return 2 * sum(self.channels.values())

    def columns(self, stage: int, pooling: Pooling) -> slice:
        """Returns the values of a row that a head sees.

        Args:
            stage: The stage whose output is pooled.
            pooling: "avg", "max", or "both" side by side.
        """
        start = 2 * sum(each for number, each in self.channels.items() if number < stage)
        start += self.channels[stage] if pooling == "max" else 0
        return slice(start, start + self.channels[stage] * (2 if pooling == "both" else 1))

    @functools.cached_property
    def file(self) -> Path:
        """A file of all rows as float32, which several processes may map; of this process."""
        folder = tempfile.TemporaryDirectory(prefix="resnet_keras-", dir=self.folder)
        weakref.finalize(self, folder.cleanup)
        path = Path(folder.name) / "features"
        with path.open("wb") as file:
            for start in range(0, len(self.store.missing), ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, len(self.store.missing))
                file.write(self.store.read(np.arange(start, end)).tobytes())
        return path


def stages_of(model: keras.Model) -> tuple[int, ...]:
    """Returns the stages whose features a head may see, the last one first.

    Pre-activation networks normalise behind their last stage alone, so that earlier stages have
    no features of their own.
    """
    spec = record_of(model).spec
    stages = tuple(range(spec.end, 0, -1))
    return stages[:1] if spec.preactivation else stages


def stage_features(
    model: keras.Model,
    images: Images,
    *,
    views: Views,
    folder: Path,
    dtype: str,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Features:
    """Runs every view of every picture through the backbone once; keeps all stages, pooled.

    Args:
        model: The network; its batch norm runs in inference mode, folded.
        images: The pictures.
        views: Which versions of each picture.
        folder: Where the features are kept, for other processes and later runs.
        dtype: What the convolutions compute in; pooling is float32 in any.
        on_batch: Called with the number of rows that were there, then of each batch.

    Returns:
        The features of all views of all pictures.

    Raises:
        RunError: If the features cannot be written or read.
        DataError: If a picture can no longer be read.
    """
    stages = stages_of(model)[::-1]
    boundaries: list[Boundary] = [f"stage{number}" for number in stages]  # type: ignore[misc]
    channels = {
        number: int(boundary_layer(model, boundary).output.shape[-1])
        for number, boundary in zip(stages, boundaries, strict=True)
    }
    packing = Packing((2 * sum(channels.values()),), "float32")
    facts = cache_key(model, images, boundaries[-1], bits=32, dtype=dtype), boundaries, POOLINGS
    home = folder / hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    home.mkdir(parents=True, exist_ok=True)
    ids, places = views.rows(images)
    # Of several processes one computes what is missing while the others wait for it.
    with filelock.FileLock(home.with_suffix(".lock")):
        store = DiskRows(home, ids, packing.row_bytes)
        on_batch(int(places.size - store.missing.sum()))
        if batches := plan_batches(places, store.missing):
            network = _network(model, boundaries, packing, dtype=dtype, shape=images.shape)
            read = picture_reader(images, views)
            extract(batches, store, read=read, network=network, on_batch=on_batch)
    return Features(channels, store, places, home)


def _network(
    model: keras.Model,
    boundaries: Sequence[Boundary],
    packing: Packing,
    *,
    dtype: str,
    shape: tuple[int, ...],
) -> Callable[[Any], Any]:
    """Returns the function from pixels to rows: stage after stage, each pooled as it comes."""
    starts = [None, *boundaries[:-1]]
    parts = [
        FrozenPart(Folded(model, after=after, through=through, dtype=dtype))
        for after, through in zip(starts, boundaries, strict=True)
    ]

    def run(pixels: Any) -> Any:
        x, found = pixels, []
        for part in parts:
            x = part(x)
            values = ops.cast(x, "float32")
            found += [ops.mean(values, axis=(1, 2)), ops.max(values, axis=(1, 2))]
        return packing.pack(ops.concatenate(found, axis=-1))

    variables = [variable for part in parts for variable in part.variables]
    return compiled(run, tf.TensorSpec((EXTRACTION_BATCH, *shape), tf.float32), variables=variables)
