"""timm's weights, under their names on the Hugging Face hub: the default_cfgs of timm 1.0.31.

What no `ResNetSpec` expresses is left out: attention, blur pools, ResNet-RS, group norm, the stems
"c", "s" and "t", and the depths 10, 14 and 26.
"""

from __future__ import annotations

from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.entries import RegistryEntry
from resnet_keras.weights.published import timm_ported, timm_rsb, timm_trained
from resnet_keras.weights.published.timm_series import hub_file

_BAMBOO = RegistryEntry(
    record=Record(
        spec=ResNetSpec(50),
        recipe=Recipe(224, 1.0, "bicubic"),
        name="resnet50.bamboo",
        source="Zhang et al., on Bamboo-CLS (arXiv 2203.07845), without head, published by timm",
        licence="not stated",
    ),
    family="timm",
    files=(hub_file("resnet50.bamboo"),),
    parameters=23_508_032,
    num_classes=None,
)
_SERIES = (*timm_rsb.SERIES, *timm_trained.SERIES, *timm_ported.SERIES)
ENTRIES = (*(entry for series in _SERIES for entry in series.entries()), _BAMBOO)
