"""The weights of classification_models (qubvel): names and digests of its weights.py.

Accuracies: its README. The statistics of its first layer, `bn_data`, take the place of the recipe's
mean and std when a file is read; until then the recipe says what goes into that layer.
"""

from __future__ import annotations

import dataclasses
import functools

from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.classes import imagenet_names
from resnet_keras.weights.entries import PublishedFile, RegistryEntry, Score

_FOLDER = "https://github.com/qubvel/classification_models/releases/download/0.0.1/"
_spec = functools.partial(
    ResNetSpec, variant="v2", bn_epsilon=2e-5, shortcut="stage", stem_norm=True
)
_RECIPE = Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_IMAGENET = "imagenet"
# Depth, data set, classes, trainable parameters without the head and the features that it sees,
# md5 of the file with head and of that without, top-1 and top-5 accuracy. The parameters are those
# of timm's resnetv2 with the norm of the stem (128) and, in the basic networks, the projection of
# the first block (4096) besides.
_ROWS = (
    (
        18,
        _IMAGENET,
        1000,
        (11_178_944, 512),
        ("64da73012bb70e16c901316c201d9803", "318e3ac0cd98d51e917526c9f62f0b50"),
        (68.24, 88.49),
    ),
    (
        34,
        _IMAGENET,
        1000,
        (21_287_104, 512),
        ("2ac8277412f65e5d047f255bcbd10383", "8caaa0ad39d927cb8ba5385bf945d582"),
        (72.17, 90.74),
    ),
    (
        50,
        _IMAGENET,
        1000,
        (23_500_480, 2048),
        ("d0feba4fc650e68ac8c19166ee1ba87f", "db3b217156506944570ac220086f09b6"),
        (74.81, 92.38),
    ),
    (
        101,
        _IMAGENET,
        1000,
        (42_492_608, 2048),
        ("9489ed2d5d0037538134c880167622ad", "1016e7663980d5597a4e224d915c342d"),
        (76.58, 93.10),
    ),
    (
        152,
        _IMAGENET,
        1000,
        (58_136_256, 2048),
        ("1efffbcc0708fb0d46a9d096ae14f905", "5867b94098df4640918941115db93734"),
        (76.66, 93.08),
    ),
    (
        50,
        "imagenet11k-places365ch",
        11_586,
        (23_500_480, 2048),
        ("bb8963db145bc9906452b3d9c9917275", "d8bf4e7ea082d9d43e37644da217324a"),
        None,
    ),
    (
        152,
        "imagenet11k",
        11_221,
        (58_136_256, 2048),
        ("24791790f6ef32f274430ce4a2ffee5d", "25ab66dec217cb774a27d0f3659cafb3"),
        None,
    ),
)
_Row = tuple[int, str, int, tuple[int, int], tuple[str, str], tuple[float, float] | None]


def _entries(row: _Row) -> tuple[RegistryEntry, RegistryEntry]:
    depth, data, classes, (parameters, features), digests, accuracies = row
    known = data == _IMAGENET
    name = f"resnet{depth}.classification_models" + ("" if known else f"_{data}")
    file = f"resnet{depth}_{data}_{classes}"
    entry = RegistryEntry(
        record=Record(
            spec=_spec(depth),
            recipe=_RECIPE,
            class_names=imagenet_names() if known else (),
            name=name,
            source=f"github.com/qubvel/classification_models, ported from MXNet, on {data}",
            licence="MIT",
        ),
        family="classification_models",
        files=(_file(f"{file}.h5", digests[0]),),
        parameters=parameters + (features + 1) * classes,
        num_classes=classes,
        scores=() if accuracies is None else (Score(*accuracies, 224, 224 / 256),),
        antialias=False,
    )
    headless = dataclasses.replace(
        entry,
        record=dataclasses.replace(entry.record, name=f"{name}_notop", class_names=()),
        files=(_file(f"{file}_no_top.h5", digests[1]),),
        parameters=parameters,
        num_classes=None,
        scores=(),
    )
    return entry, headless


def _file(name: str, md5: str) -> PublishedFile:
    return PublishedFile(_FOLDER + name, "classification_models", md5=md5)


ENTRIES = tuple(entry for row in _ROWS for entry in _entries(row))
