"""`load_images`: from any source to checked, split and decoded pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tensorflow as tf

from resnet_keras.data.arrays import Labels, read_arrays
from resnet_keras.data.check import Checked, Store
from resnet_keras.data.decode import MAX_PIXELS
from resnet_keras.data.exchange import agreed_listing, gather_checked
from resnet_keras.data.folders import read_folder
from resnet_keras.data.images import ImageData, Images
from resnet_keras.data.listing import PARTS, Listing
from resnet_keras.data.report import (
    FIRST,
    DataReport,
    collect_changes,
    count_classes,
    count_notes,
)
from resnet_keras.data.split import class_counts, split_off
from resnet_keras.distribution.replicas import Replicas, replicas_of
from resnet_keras.distribution.sharing import Sharing
from resnet_keras.distribution.strategies import Strategy
from resnet_keras.errors import DataError
from resnet_keras.records import Recipe

TFDS_PREFIX = "tfds:"
OnBadImage = Literal["error", "skip"]
Rows = Mapping[str, np.ndarray]  # of each part, in the order of the listing


def load_images(
    source: str | Path | np.ndarray,
    *,
    labels: Labels | None = None,
    recipe: Recipe | None = None,
    image_size: int | None = None,
    batch_size: int = 32,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    on_bad_image: OnBadImage = "error",
    max_pixels: int = MAX_PIXELS,
    strategy: Strategy | None = None,
) -> ImageData:
    """Loads labelled pictures, checks every one of them, and splits them.

    Every picture is decoded once before anything else happens, and kept in memory as far as
    a quarter of the free memory goes, which the environment variable `RESNET_KERAS_MEMORY`
    may lower (such as 2GB); then in a temporary file as far as half of the free disk goes. The
    others are decoded again whenever they are used. Of several workers, each does so with those
    pictures alone that it will train on, validate and test, and tells the others what it found.

    Args:
        source: A folder with one sub-folder a class; a folder with such trees in `train/`,
            `val/` and `test/`; "tfds:NAME" or "tfds:NAME/CONFIG"; or pixels in [0, 255],
            uint8 `(n, height, width, channels)`.
        labels: Only with an array: class of each picture, `(n,)`, as integers from 0 or names.
        recipe: How pictures are resized and cropped; best that of the weights.
        image_size: Side of the square that the network sees, in pixels, if not the recipe's.
        batch_size: Pictures a batch.
        validation: Share to split off for validation where the source has no such part,
            in [0, 1); 0 for none.
        test: The same for the test part; both together below 1.
        seed: Of the split, which depends on it and on the names alone.
        on_bad_image: "error" to stop at pictures that cannot be read, with a list of them;
            "skip" to go on without them, named in the report.
        max_pixels: Pictures with more pixels are bad, and are not decoded.
        strategy: What `get_strategy` returned, to share the pictures out between its workers, all
            of which must have them at hand; None for all pictures in this process.

    Returns:
        The parts, with class names, recipe and a report; the same in each worker.

    Raises:
        DataError: If the source cannot be used; the sentence says why and what to do.
        ValueError: If an argument is out of range.
        WorkersError: If workers lose each other.

    Example:
        >>> import numpy as np
        >>> from resnet_keras.data import load_images
        >>> pixels = np.zeros((20, 8, 8, 3), np.uint8)
        >>> data = load_images(pixels, labels=["cat", "dog"] * 10, image_size=8)
        >>> data.class_names, len(data.train), len(data.val), len(data.test)
        (('cat', 'dog'), 14, 3, 3)
    """
    _check_arguments(batch_size, {"validation": validation, "test": test}, on_bad_image)
    recipe = recipe or Recipe()
    if image_size is not None:
        recipe = dataclasses.replace(recipe, image_size=image_size)
    settings = {
        **recipe.to_dict(), "batch_size": batch_size, "validation": validation, "test": test,
        "seed": seed, "on_bad_image": on_bad_image, "max_pixels": max_pixels,
    }  # fmt: skip
    replicas = replicas_of(strategy or tf.distribute.get_strategy())
    workers = replicas.workers
    with replicas.together():
        listing = agreed_listing(workers, lambda: _list_source(source, labels), settings)
        store = Store(listing, recipe=recipe, max_pixels=max_pixels)
        rows, checked = _check_parts(
            listing,
            split=lambda good: _split(listing, good, {"val": validation, "test": test}, seed=seed),
            check=lambda rows: gather_checked(
                workers, lambda: store.check(_own(rows, batch_size, replicas))
            ),
            on_bad_image=on_bad_image,
        )
    of_rows = functools.partial(
        _images, listing, checked, store=store, recipe=recipe, batch_size=batch_size
    )
    parts = {part: of_rows(chosen) for part, chosen in rows.items()}
    report = _report(listing, checked, rows)
    present = set(listing.parts.tolist())
    drawn = tuple(part for part in parts if part not in present)
    return ImageData(parts["train"], parts.get("val"), parts.get("test"), report, drawn)


def _check_arguments(batch_size: int, shares: Mapping[str, float], on_bad_image: str) -> None:
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size!r}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={share!r}")
    if sum(shares.values()) >= 1:
        raise ValueError(f"`validation` and `test` must add up to less than 1. Received: {shares}")
    if on_bad_image not in get_args(OnBadImage):
        raise ValueError(
            f"`on_bad_image` must be one of {list(get_args(OnBadImage))}. "
            f"Received: on_bad_image={on_bad_image!r}"
        )


def _list_source(source: str | Path | np.ndarray, labels: Labels | None) -> Listing:
    if isinstance(source, np.ndarray):
        return read_arrays(source, labels)
    if labels is not None:
        raise ValueError(
            f"`labels` goes with an array of pictures only. Received: source={source!r}"
        )
    if isinstance(source, str) and source.startswith(TFDS_PREFIX):
        # TensorFlow Datasets takes half a second to import.
        from resnet_keras.data.tfds_source import read_tfds

        return read_tfds(source.removeprefix(TFDS_PREFIX))
    return read_folder(Path(source))


def _check_parts(
    listing: Listing,
    *,
    split: Callable[[np.ndarray], Rows],
    check: Callable[[Rows], Mapping[int, Checked]],
    on_bad_image: OnBadImage,
) -> tuple[Rows, list[Checked]]:
    """Returns the parts, drawn again without bad pictures until none is found, and what was."""
    good = np.ones(len(listing.names), np.bool_)
    checked: dict[int, Checked] = {}
    while True:
        rows = split(np.flatnonzero(good))
        found = check(rows)
        checked |= found
        bad = sorted(row for row, result in found.items() if result.reason)
        if not bad:
            return rows, [checked[row] for row in range(len(good))]
        if on_bad_image == "error":
            raise DataError(_bad_pictures(listing, [(row, checked[row].reason) for row in bad]))
        good[bad] = False


def _own(rows: Rows, batch_size: int, replicas: Replicas) -> np.ndarray:
    """Returns the rows of the pictures that this process will use."""
    train = Sharing(
        len(rows["train"]), batch_size, replicas=replicas.count, numbers=replicas.numbers
    )
    own = [
        chosen[train.owned if part == "train" else replicas.workers.share(len(chosen))]
        for part, chosen in rows.items()
    ]
    return np.concatenate(own)


def _bad_pictures(listing: Listing, bad: Sequence[tuple[int, str]]) -> str:
    first = "".join(f"\n  {listing.names[row]} {reason}" for row, reason in bad[:FIRST])
    more = f"\n  and {len(bad) - FIRST:,} more" if len(bad) > FIRST else ""
    return (
        f"{len(bad):,} of {len(listing.names):,} pictures of {listing.source} cannot be used; mend "
        f'or remove them, or leave them out with on_bad_image="skip":{first}{more}'
    )


def _split(listing: Listing, good: np.ndarray, shares: Mapping[str, float], *, seed: int) -> Rows:
    """Returns the rows of each part; what the source does not have is split off the training."""
    train = good[listing.parts[good] == "train"]
    sizes = np.bincount(listing.labels[train], minlength=len(listing.class_names)).tolist()
    present = set(listing.parts.tolist())
    missing = [part for part, share in shares.items() if share and part not in present]
    counts = class_counts(sizes, [shares[part] for part in missing], listing.class_names)
    names = [listing.names[row] for row in train]
    drawn = split_off(names, listing.labels[train], counts, seed=seed)
    rows = {part: good[listing.parts[good] == part] for part in PARTS if part in present}
    rows |= {part: train[drawn == number] for number, part in enumerate(("train", *missing))}
    for part, chosen in rows.items():
        if not len(chosen):
            raise DataError(f"The {part} part of {listing.source} has no picture that can be read.")
    return {part: rows[part] for part in PARTS if part in rows}


def _images(
    listing: Listing,
    checked: Sequence[Checked],
    rows: np.ndarray,
    *,
    store: Store,
    recipe: Recipe,
    batch_size: int,
) -> Images:
    return Images(
        labels=listing.labels[rows],
        names=tuple(listing.names[row] for row in rows),
        class_names=listing.class_names,
        recipe=recipe,
        batch_size=batch_size,
        metadata={name: values[rows] for name, values in listing.metadata.items()},
        digests=tuple(checked[row].digest for row in rows),
        store=store,
        rows=rows,
    )


def _report(listing: Listing, checked: Sequence[Checked], rows: Rows) -> DataReport:
    counts = {
        part: count_classes(listing.labels[chosen], listing.class_names)
        for part, chosen in rows.items()
    }
    named = list(zip(listing.names, checked, strict=True))
    return DataReport(
        source=listing.source,
        counts=counts,
        bad=tuple((name, result.reason) for name, result in named if result.reason),
        ignored=listing.ignored,
        changed=collect_changes((name, result.changes) for name, result in named),
        notes=(*listing.notes, *count_notes(counts)),
    )
