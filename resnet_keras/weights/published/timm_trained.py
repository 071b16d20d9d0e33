"""timm's own series beside "ResNet strikes back".

Accuracies: results/results-imagenet.csv of timm at commit 7479d451a6df (October 2024).
"""

from __future__ import annotations

from resnet_keras.weights.published.timm_series import RELEASES, Series

_WEIGHTS = f"{RELEASES}/v0.1-weights"
_SOURCE = "timm, {}, on ImageNet-1k"
_RA4 = _SOURCE.format("hyperparameters after MobileNet-V4, 3600 epochs")

_RA2 = Series(
    tag="ra2_in1k",
    source=_SOURCE.format("RandAugment recipe 2"),
    folder=_WEIGHTS,
    crop=0.875,
    test_size=288,
    test_crop=0.95,
    rows=(
        ("resnet18d", "resnet18d_ra2-48a79e06.pth", (72.268, 90.682, 73.794, 91.834)),
        ("resnet34d", "resnet34d_ra2-f8dcfcaf.pth", (77.104, 93.376, 78.440, 94.348)),
        ("resnet50d", "resnet50d_ra2-464e36ba.pth", (80.548, 95.158, 81.350, 95.742)),
    ),
)
_RA2_256 = Series(
    tag="ra2_in1k",
    source=_SOURCE.format("RandAugment recipe 2, at 256 pixels"),
    folder=_WEIGHTS,
    size=256,
    test_size=320,
    rows=(
        ("resnet101d", "resnet101d_ra2-2803ffab.pth", (82.252, 96.068, 83.018, 96.458)),
        ("resnet152d", "resnet152d_ra2-5cac0439.pth", (83.156, 96.382, 83.684, 96.750)),
        ("resnet200d", "resnet200d_ra2-bdba9bf9.pth", (83.240, 96.546, 83.976, 96.820)),
    ),
)
_RA = Series(
    tag="ra_in1k",
    source=_SOURCE.format("RandAugment"),
    folder=_WEIGHTS,
    crop=0.875,
    test_size=288,
    test_crop=0.95,
    rows=(
        ("resnet50", "resnet50_ra-85ebb6e5.pth", (78.814, 94.320, 79.860, 94.970)),
        ("resnext50_32x4d", "resnext50_32x4d_ra-d733960d.pth", (79.800, 94.608, 80.706, 95.358)),
    ),
)
_RAM = Series(
    tag="ram_in1k",
    source=_SOURCE.format("AugMix with RandAugment"),
    folder=_WEIGHTS,
    crop=0.875,
    test_size=288,
    test_crop=0.95,
    rows=(("resnet50", "resnet50_ram-a26f946b.pth", (79.032, 94.386, 79.974, 95.040)),),
)
_AM = Series(
    tag="am_in1k",
    source=_SOURCE.format("AugMix"),
    folder=_WEIGHTS,
    crop=0.875,
    rows=(("resnet50", "resnet50_am-6c502b37.pth", (79.004, 94.392)),),
)
_RACM = Series(
    tag="racm_in1k",
    source=_SOURCE.format("RandAugment with CutMix"),
    folder=_WEIGHTS,
    crop=0.875,
    test_size=288,
    test_crop=0.95,
    rows=(
        ("wide_resnet50_2", "wide_resnet50_racm-8234f177.pth", (81.488, 95.544, 82.266, 96.062)),
    ),
)
_BT = Series(
    tag="bt_in1k",
    source=_SOURCE.format("a bag of tricks"),
    folder=_WEIGHTS,
    crop=0.875,
    test_size=288,
    test_crop=0.95,
    rows=(
        ("resnet34", "resnet34-43635321.pth", (75.162, 92.170, 76.508, 93.344)),
        ("resnet50", "rw_resnet50-86acaeed.pth", (78.432, 94.270, 79.652, 94.908)),
        ("resnext50d_32x4d", "resnext50d_32x4d-103e99f8.pth", (79.672, 94.878, 80.680, 95.428)),
    ),
)
_RA4_50 = Series(
    tag="ra4_e3600_r224_in1k",
    source=_RA4,
    test_size=288,
    half=True,
    rows=(("resnet50d", "", (80.956, 95.380, 81.830, 95.920)),),
)
# Accuracies of the small ones: huggingface.co/blog/rwightman/resnet-trick-or-treat (October 2024);
# those without top-5 are of timm's table of October 2025.
_RA4_SMALL = Series(
    tag="ra4_e3600_r224_in1k",
    source=_RA4,
    crop=0.9,
    test_size=288,
    half=True,
    rows=(
        ("resnet18d", "", ()),
        ("resnet34", "", (77.448, 93.502, 78.972, None)),
        ("resnetv2_18", "", (73.572, None)),
        ("resnetv2_34", "", (77.636, 93.528)),
        ("resnetv2_18d", "", (74.412, 91.928)),
        ("resnetv2_34d", "", (78.268, 93.956)),
    ),
)
_RA4_384 = Series(
    tag="ra4_e3600_r384_in1k",
    source=f"{_RA4}, at 384 pixels",
    size=384,
    crop=1.0,
    test_size=448,
    half=True,
    rows=(("resnetv2_34d", "", ()),),
)
SERIES = (_RA2, _RA2_256, _RA, _RAM, _AM, _RACM, _BT, _RA4_50, _RA4_SMALL, _RA4_384)
