"""Pictures of TensorFlow Datasets, undecoded, with whatever else is known of each."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from resnet_keras.data import elpv  # noqa: F401  (makes the builder known by its name)
from resnet_keras.data.listing import PARTS, Listing
from resnet_keras.data.memory import available_memory
from resnet_keras.errors import DataError

# Of a dataset prepared in a sequential format the encoded pictures are kept in memory.
MEMORY_SHARE = 0.25
SPLITS = {"train": "train", "validation": "val", "test": "test"}
NAME_FEATURES = ("file_name", "filename", "image/filename", "image/file_name")


def read_tfds(name: str) -> Listing:
    """Lists the pictures of a dataset, which is prepared first where that was not done yet.

    Args:
        name: NAME or NAME/CONFIG, as `tfds.builder` takes it.

    Raises:
        DataError: If there is no such dataset, or it has no pictures with one label each.
    """
    with _calm():
        builder = _prepared(name)
        features = _features(name, builder)
        splits = _splits(name, builder)
        records = {part: _records(name, builder, split) for split, part in splits.items()}
    return _listing(name, features, records)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Keeps what TFDS prints away, and its bars where there is no terminal to draw them on."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _prepared(name: str) -> Any:
    # TFDS itself reads the variable when it is imported and not when it is needed.
    folder = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
        if not builder.data_path.exists():
            # The one format that is read by index, so that nothing is kept in memory. Datasets
            # that exist as files alone stay what they are.
            with contextlib.suppress(ValueError):
                builder = tfds.builder(name, data_dir=folder, file_format="array_record")
            builder.download_and_prepare()
    except DataError:
        raise
    except Exception as error:
        with contextlib.suppress(Exception):
            # Another process, such as a worker on this machine, was faster.
            builder = tfds.builder(name, data_dir=folder)
            if builder.data_path.exists():
                return builder
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"The dataset {name!r} of TensorFlow Datasets could not be prepared ({reason}); "
            "`tfds.list_builders()` lists the names."
        ) from error
    return builder


def _features(name: str, builder: Any) -> dict[str, Any]:
    features = builder.info.features
    known = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(known.get(key), kind) for key, kind in wanted.items()):
        raise DataError(
            f"The dataset {name!r} must have the features 'image' and 'label', a picture and a "
            f"class, and has {', '.join(known) or features}."
        )
    return known


def _splits(name: str, builder: Any) -> dict[str, str]:
    found = builder.info.splits
    if "train" not in found:
        raise DataError(
            f"The dataset {name!r} must have a train split, and has {', '.join(found)}."
        )
    return {split: part for split, part in SPLITS.items() if split in found}


def _records(name: str, builder: Any, split: str) -> Sequence[Mapping[str, Any]]:
    """Returns the examples of a split with their pictures still encoded."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    with contextlib.suppress(NotImplementedError):
        source: Sequence[Mapping[str, Any]] = builder.as_data_source(split, decoders=decoders)
        return source
    needed = builder.info.splits[split].num_bytes
    if needed > MEMORY_SHARE * available_memory():
        raise DataError(
            f"The dataset {name!r} was prepared in a format that is read from start to end only, "
            f"and does not fit in memory ({needed / 1e9:.1f} GB); delete {builder.data_path} to "
            "have it prepared again."
        )
    examples = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    return list(tfds.as_numpy(examples))


def _listing(
    name: str, features: Mapping[str, Any], records: Mapping[str, Sequence[Any]]
) -> Listing:
    located = [
        (part, index) for part in PARTS if part in records for index in range(len(records[part]))
    ]
    known: dict[str, list[Any]] = {key: [] for key in features if features[key].shape == ()}
    for part, index in located:
        record = records[part][index]
        for key, values in known.items():
            values.append(_readable(features[key], key, record[key]))

    def fetch(row: int) -> bytes:
        part, index = located[row]
        return bytes(records[part][index]["image"])

    labels = np.array(known.pop("label"), np.int32)
    return Listing(
        source=f"tfds:{name}",
        names=_names(known, located),
        labels=labels,
        parts=np.array([part for part, _ in located]),
        class_names=tuple(features["label"].names),
        fetch=fetch,
        metadata={key: np.array(values) for key, values in known.items()},
    )


def _readable(feature: Any, key: str, value: Any) -> Any:
    """Returns text as a string and, except for the label itself, a class as its name."""
    if isinstance(feature, tfds.features.ClassLabel) and key != "label":
        return feature.int2str(int(value))
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _names(known: Mapping[str, list[Any]], located: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    for key in NAME_FEATURES:
        if key in known and len(set(known[key])) == len(located):
            return tuple(known[key])
    return tuple(f"{part}/{index:06d}" for part, index in located)
