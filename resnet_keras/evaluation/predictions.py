"""`evaluate` for pictures whose classes are known, `predict` for those whose are not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data import Images
from resnet_keras.data.augment import Flip
from resnet_keras.data.decode import decode
from resnet_keras.data.threads import decoding_pool
from resnet_keras.data.untuned import untuned
from resnet_keras.distribution.replicas import replicas_of
from resnet_keras.distribution.strategies import Strategy
from resnet_keras.errors import DataError, DivergedError
from resnet_keras.evaluation.inference import batch_probabilities
from resnet_keras.evaluation.metrics import Evaluation
from resnet_keras.evaluation.text import printable
from resnet_keras.layers import record_of
from resnet_keras.precision import Precision

Source = Path | str | bytes | np.ndarray
Read = tuple[str, np.ndarray | DataError]
DEFAULT_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says about one picture, or why it could not.

    Args:
        name: Path of the picture, or its number where it has none.
        label: Name of the most probable class; None if the picture cannot be read.
        index: Number of that class.
        probabilities: Class name to probability, in the order of the classes.
        error: Why the picture cannot be read; None if it can.
    """

    name: str
    label: str | None = None
    index: int | None = None
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the prediction as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)


def evaluate(
    model: keras.Model,
    images: Images | tuple[np.ndarray, np.ndarray],
    *,
    flips: Flip = "none",
    batch_size: int | None = None,
    precision: Precision = "auto",
    strategy: Strategy | None = None,
) -> Evaluation:
    """Compares what a network says about pictures with their true classes.

    Args:
        model: A classifier of `build_resnet`: pixels to logits.
        images: One part of `load_images`, or pictures in [0, 255],
            `(pictures, height, width, channels)`, and their classes, `(pictures,)`.
        flips: Mirrored versions of each picture whose probabilities are averaged.
        batch_size: Pictures at a time; that of the part, or 32 for arrays, if None.
        precision: What the convolutions compute in: "float32", "bfloat16", or "auto": bfloat16
            where the hardware is faster in it. Batch norm is folded into them in any case.
        strategy: What `get_strategy` returned: its workers and devices share the pictures, and
            each worker gets the whole evaluation. None for one device.

    Returns:
        The evaluation, in the order of the pictures.

    Raises:
        ValueError: If the classes or the pictures are not those of the model.
        DivergedError: If the network returns anything but finite numbers.

    Example:
        >>> import numpy as np
        >>> from resnet_keras import build_resnet, evaluate
        >>> model = build_resnet(18, num_classes=2, width=0.125)
        >>> result = evaluate(model, (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, 1])))
        >>> result.probabilities.shape, result.confusion.sum()
        ((3, 2), np.int64(3))
    """
    _check_batch_size(batch_size)
    model_names = _class_names(model)
    replicas = replicas_of(strategy or tf.distribute.get_strategy())
    if isinstance(images, tuple):
        pictures, labels = _checked_arrays(*images)
        names, class_names = tuple(map(str, range(len(labels)))), model_names
        own = pictures[replicas.workers.share(len(labels))]
        batches = untuned(
            tf.data.Dataset.from_tensor_slices(own).batch(batch_size or DEFAULT_BATCH)
        )
    else:
        labels, names, class_names = images.labels, images.names, images.class_names
        _check_classes(class_names, model_names)
        own = images.subset(replicas.workers.share(len(images)))
        sized = dataclasses.replace(own, batch_size=batch_size or images.batch_size)
        batches = sized.dataset().map(lambda pictures, _: pictures)
    probabilities = replicas.workers.gather_rows(
        batch_probabilities(model, batches, flips=flips, precision=precision, replicas=replicas),
        len(labels),
    )
    return Evaluation(labels, probabilities, names=names, class_names=class_names)


def predict(
    model: keras.Model,
    sources: Sequence[Source],
    *,
    flips: Flip = "none",
    batch_size: int = DEFAULT_BATCH,
    on_bad_image: Literal["error", "skip"] = "error",
    precision: Precision = "auto",
) -> list[Prediction]:
    """Names the class of pictures, each prepared as the weights were trained.

    Args:
        model: A classifier of `build_resnet`, or of a run.
        sources: Paths, bytes of picture files, or uint8 arrays `(height, width, channels)`.
        flips: Mirrored versions of each picture whose probabilities are averaged.
        batch_size: Pictures at a time.
        on_bad_image: Whether a picture that cannot be read ends in an error, or in a
            `Prediction` that has `error` set.
        precision: See `evaluate`.

    Returns:
        One prediction a source, in their order.

    Raises:
        DataError: If a picture cannot be read and `on_bad_image` is "error".
        DivergedError: If the network returns anything but finite numbers.
        ValueError: If an argument is out of range.

    Example:
        >>> import numpy as np
        >>> from resnet_keras import build_resnet, predict
        >>> model = build_resnet(18, num_classes=2, width=0.125)
        >>> found = predict(model, [np.zeros((300, 200, 3), np.uint8), b"no picture"],
        ...                 on_bad_image="skip")
        >>> [list(each.probabilities) for each in found], found[1].label
        ([['0', '1'], []], None)
    """
    _check_batch_size(batch_size)
    if on_bad_image not in ("error", "skip"):
        raise ValueError(
            f"`on_bad_image` must be 'error' or 'skip'. Received: on_bad_image={on_bad_image!r}"
        )
    if isinstance(sources, Path | str | bytes | np.ndarray):
        raise TypeError(
            "`sources` must be a list of pictures. Received: a single one; put it in []"
        )
    found: list[Prediction] = []
    replicas = replicas_of(tf.distribute.get_strategy())
    for start in range(0, len(sources), batch_size):
        read = _read(model, sources[start : start + batch_size], start)
        errors = [picture for _, picture in read if isinstance(picture, DataError)]
        if errors and on_bad_image == "error":
            raise errors[0]
        pictures = [picture for _, picture in read if isinstance(picture, np.ndarray)]
        rows: Iterator[np.ndarray] = iter(())
        if pictures:
            batch = np.stack(pictures)
            probabilities = batch_probabilities(
                model, [batch], flips=flips, precision=precision, replicas=replicas
            )
            rows = iter(probabilities)
        found.extend(_predictions(model, read, rows))
    return found


def _class_names(model: keras.Model) -> tuple[str, ...]:
    shape = model.output_shape
    if len(shape) != 2:
        raise ValueError(
            "The model must return logits: build it with `num_classes`. "
            f"Received: a model whose output has the shape {shape}"
        )
    names = record_of(model).class_names
    # Weights may carry names of the classes that they were trained for, under another head.
    return names if len(names) == shape[1] else tuple(map(str, range(shape[1])))


def _check_classes(of_pictures: tuple[str, ...], of_model: tuple[str, ...]) -> None:
    numbers = tuple(map(str, range(len(of_pictures))))
    named = numbers not in (of_pictures, of_model)
    if len(of_pictures) != len(of_model) or (named and of_pictures != of_model):
        raise ValueError(
            "The pictures must have the classes of the model, in the same order. "
            f"Received: {_listed(of_pictures)} for a model with {_listed(of_model)}"
        )


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes {list(names[:10])}{' and more' if len(names) > 10 else ''}"


def _checked_arrays(pictures: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = np.asarray(pictures), np.asarray(labels)
    if pictures.ndim != 4 or labels.shape != pictures.shape[:1] or not len(labels):
        raise ValueError(
            "`images` must be pictures (pictures, height, width, channels) and one label each, at "
            f"least one. Received: shapes {pictures.shape} and {labels.shape}"
        )
    return pictures, labels


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size!r}")


def _read(model: keras.Model, sources: Sequence[Source], start: int) -> list[Read]:
    """Reads pictures side by side; where one cannot be read, its error takes its place."""
    recipe = record_of(model).recipe
    names = [_name(source, start + place) for place, source in enumerate(sources)]

    def read(name: str, source: Source) -> np.ndarray | DataError:
        if isinstance(source, np.ndarray):
            _check_array(source)
        try:
            return decode(source, recipe).pixels
        except DataError as error:
            return DataError(f"{printable(name)} {error}.")

    return list(zip(names, decoding_pool().map(read, names, sources), strict=True))


def _check_array(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3, 4):
        raise ValueError(
            "An array must hold one picture, uint8 (height, width, 1, 3 or 4 channels). "
            f"Received: {picture.dtype} {picture.shape}"
        )


def _name(source: Source, place: int) -> str:
    return os.fspath(source) if isinstance(source, Path | str) else f"picture {place}"


def _predictions(
    model: keras.Model, read: list[Read], rows: Iterator[np.ndarray]
) -> Iterator[Prediction]:
    class_names = _class_names(model)
    for name, picture in read:
        if isinstance(picture, DataError):
            yield Prediction(name, error=str(picture))
        else:
            yield _prediction(name, next(rows), class_names)


def _prediction(name: str, row: np.ndarray, class_names: tuple[str, ...]) -> Prediction:
    if not np.isfinite(row).all():
        raise DivergedError(
            f"The network returned no finite numbers for {name!r}: its weights are not usable, "
            "go back to an earlier checkpoint."
        )
    index = int(row.argmax())
    probabilities = dict(zip(class_names, row.tolist(), strict=True))
    return Prediction(name, class_names[index], index, probabilities)
