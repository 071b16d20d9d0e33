"""KerasHub's presets: names and handles of keras_hub 0.32, models/resnet/resnet_presets.py.

The v1 and v2 presets were converted from timm's weights (PRESET_MAP of the converter in KerasHub's
tools), so timm's files are read for them. The "vd" presets were converted from PaddleClas, whose
docs/en/models have their accuracies and the recipe; Kaggle asks for an account, so those files
have to be fetched by hand. resnet_vd_200_imagenet is left out: its stages have 3, 12, 48 and 3
blocks, and the ResNet-200 of He et al. (2016), which `ResNetSpec` has, 3, 24, 36 and 3.
"""

from __future__ import annotations

import dataclasses

from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.classes import imagenet_names
from resnet_keras.weights.entries import PublishedFile, RegistryEntry, Score
from resnet_keras.weights.published import timm

_FROM_TIMM = {
    "resnet_18_imagenet": "resnet18.a1_in1k",
    "resnet_50_imagenet": "resnet50.a1_in1k",
    "resnet_101_imagenet": "resnet101.a1_in1k",
    "resnet_152_imagenet": "resnet152.a1_in1k",
    "resnet_v2_50_imagenet": "resnetv2_50.a1h_in1k",
    "resnet_v2_101_imagenet": "resnetv2_101.a1h_in1k",
}
_RECIPE = Recipe(224, 224 / 256)
_SSLD = "by distillation (SSLD)"
# Preset, depth, trainable parameters, how it was trained, its recipe, top-1 and top-5 accuracy.
# The parameters are those of keras_hub's networks.
_VD = (
    ("resnet_vd_18", 18, 11_712_968, "200 epochs", _RECIPE, 72.26, 90.80),
    ("resnet_vd_34", 34, 21_821_128, "200 epochs", _RECIPE, 75.98, 92.98),
    ("resnet_vd_50", 50, 25_576_264, "200 epochs", _RECIPE, 79.12, 94.44),
    ("resnet_vd_101", 101, 44_568_392, "200 epochs", _RECIPE, 80.17, 94.97),
    ("resnet_vd_152", 152, 60_212_040, "200 epochs", _RECIPE, 80.59, 95.30),
    ("resnet_vd_200", 200, 74_738_504, "200 epochs", _RECIPE, 80.93, 95.33),
    ("resnet_vd_50_ssld", 50, 25_576_264, _SSLD, _RECIPE, 82.4, 96.1),
    ("resnet_vd_101_ssld", 101, 44_568_392, _SSLD, _RECIPE, 83.73, 96.69),
    ("resnet_vd_50_ssld_v2", 50, 25_576_264, f"{_SSLD} with AutoAugment", _RECIPE, 83.0, 96.4),
    (
        "resnet_vd_50_ssld_v2_fix",
        50,
        25_576_264,
        f"{_SSLD} with AutoAugment, the head then at 320 pixels",
        Recipe(320, 1.0),
        84.0,
        97.0,
    ),
)


def _from_timm(preset: str, name: str) -> RegistryEntry:
    entry = next(entry for entry in timm.ENTRIES if entry.name == name)
    source = f"KerasHub's preset, converted from timm's {name}: {entry.record.source}"
    return dataclasses.replace(
        entry,
        record=dataclasses.replace(entry.record, name=preset, source=source),
        family="KerasHub",
        files=entry.files[:1],
    )


def _vd(row: tuple[str, int, int, str, Recipe, float, float]) -> RegistryEntry:
    preset, depth, parameters, how, recipe, top1, top5 = row
    name = f"{preset}_imagenet"
    spec = ResNetSpec(depth, "d")
    if spec.kind == "basic":
        spec = dataclasses.replace(spec, shortcut="stage")
    elif depth == 200:
        spec = dataclasses.replace(spec, stage_blocks=(3, 12, 48, 3))
    url = f"kaggle://keras/resnet_vd/keras/{name}/2"
    return RegistryEntry(
        record=Record(
            spec=spec,
            recipe=recipe,
            class_names=imagenet_names(),
            name=name,
            source=f"KerasHub's preset, converted from PaddleClas, on ImageNet-1k, {how}",
            licence="Apache-2.0",
        ),
        family="KerasHub",
        files=(PublishedFile(url, "keras_hub"),),
        parameters=parameters,
        scores=(Score(top1, top5, recipe.image_size, recipe.crop),),
        antialias=False,
    )


ENTRIES = (
    *(_from_timm(preset, name) for preset, name in _FROM_TIMM.items()),
    *(_vd(row) for row in _VD),
)
