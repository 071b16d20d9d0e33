"""torchvision's weights: names, files and scores of torchvision 0.29.2, models/resnet.py."""

from __future__ import annotations

from resnet_keras.records import Recipe, Record
from resnet_keras.weights.classes import imagenet_names
from resnet_keras.weights.entries import PublishedFile, RegistryEntry, Score
from resnet_keras.weights.published.networks import NETWORKS

_FOLDER = "https://download.pytorch.org/models/"
_SOURCES = {
    "IMAGENET1K_V1": "torchvision, the recipe of 2016 to 2022, on ImageNet-1k",
    "IMAGENET1K_V2": "torchvision, the recipe of 2022 (pytorch/vision issue 3995), on ImageNet-1k",
}
# network, name of the weights, first eight digits of the file's sha256, short side of the resized
# picture, and the top-1 and top-5 accuracy.
_ROWS = (
    ("resnet18", "IMAGENET1K_V1", "f37072fd", 256, 69.758, 89.078),
    ("resnet34", "IMAGENET1K_V1", "b627a593", 256, 73.314, 91.420),
    ("resnet50", "IMAGENET1K_V1", "0676ba61", 256, 76.130, 92.862),
    ("resnet50", "IMAGENET1K_V2", "11ad3fa6", 232, 80.858, 95.434),
    ("resnet101", "IMAGENET1K_V1", "63fe2227", 256, 77.374, 93.546),
    ("resnet101", "IMAGENET1K_V2", "cd907fc2", 232, 81.886, 95.780),
    ("resnet152", "IMAGENET1K_V1", "394f9c45", 256, 78.312, 94.046),
    ("resnet152", "IMAGENET1K_V2", "f82ba261", 232, 82.284, 96.002),
    ("wide_resnet50_2", "IMAGENET1K_V1", "95faca4d", 256, 78.468, 94.086),
    ("wide_resnet50_2", "IMAGENET1K_V2", "9ba9bcbe", 232, 81.602, 95.758),
    ("wide_resnet101_2", "IMAGENET1K_V1", "32ee1156", 256, 78.848, 94.284),
    ("wide_resnet101_2", "IMAGENET1K_V2", "d733dc28", 232, 82.510, 96.020),
    ("resnext50_32x4d", "IMAGENET1K_V1", "7cdf4587", 256, 77.618, 93.698),
    ("resnext50_32x4d", "IMAGENET1K_V2", "1a0047aa", 232, 81.198, 95.340),
    ("resnext101_32x8d", "IMAGENET1K_V1", "8ba56ff5", 256, 79.312, 94.526),
    ("resnext101_32x8d", "IMAGENET1K_V2", "110c445d", 232, 82.834, 96.228),
    ("resnext101_64x4d", "IMAGENET1K_V1", "173b62eb", 232, 83.246, 96.454),
)


def _entry(row: tuple[str, str, str, int, float, float]) -> RegistryEntry:
    network, weights, digits, resized, top1, top5 = row
    spec, parameters = NETWORKS[network]
    recipe = Recipe(224, 224 / resized)
    return RegistryEntry(
        record=Record(
            spec=spec,
            recipe=recipe,
            class_names=imagenet_names(),
            name=f"{network}.{weights}",
            source=_SOURCES[weights],
            licence="BSD-3-Clause",
        ),
        family="torchvision",
        files=(PublishedFile(f"{_FOLDER}{network}-{digits}.pth", "torch", sha256=digits),),
        parameters=parameters,
        scores=(Score(top1, top5, recipe.image_size, recipe.crop),),
    )


ENTRIES = tuple(map(_entry, _ROWS))
