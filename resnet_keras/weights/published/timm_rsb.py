"""timm's series after "ResNet strikes back" (Wightman et al. 2021, arXiv 2110.00476).

Accuracies: results/results-imagenet.csv of timm at commit 7479d451a6df (October 2024).
"""

from __future__ import annotations

from resnet_keras.weights.published.timm_series import RELEASES, Series

_RSB = f"{RELEASES}/v0.1-rsb-weights"
_TPU = f"{RELEASES}/v0.1-tpu-weights"
_SOURCE = "timm, recipe {} of 'ResNet strikes back', on ImageNet-1k"

_A1 = Series(
    tag="a1_in1k",
    source=_SOURCE.format("A1, 600 epochs,"),
    folder=_RSB,
    test_size=288,
    rows=(
        ("resnet18", "resnet18_a1_0-d63eafa0.pth", (71.488, 90.076, 73.164, 91.054)),
        ("resnet34", "resnet34_a1_0-46f8f793.pth", (76.414, 92.886, 77.938, 93.748)),
        ("resnet50", "resnet50_a1_0-14fe96d1.pth", (80.382, 94.598, 81.240, 95.112)),
        ("resnet101", "resnet101_a1_0-cdcb52a9.pth", (81.494, 95.164, 82.322, 95.628)),
        ("resnet152", "resnet152_a1_0-2eee8a7a.pth", (81.998, 95.294, 82.744, 95.720)),
        ("resnet50d", "resnet50d_a1_0-e20cff14.pth", (80.730, 94.678, 81.444, 95.224)),
        ("resnext50_32x4d", "resnext50_32x4d_a1_0-b5a91a1d.pth", (80.526, 94.458, 81.484, 95.162)),
    ),
)
_A2 = Series(
    tag="a2_in1k",
    source=_SOURCE.format("A2, 300 epochs,"),
    folder=_RSB,
    test_size=288,
    rows=(
        ("resnet18", "resnet18_a2_0-b61bd467.pth", (70.634, 89.486, 72.362, 90.616)),
        ("resnet34", "resnet34_a2_0-82d47d71.pth", (75.516, 92.456, 77.148, 93.290)),
        ("resnet50", "resnet50_a2_0-a2746f79.pth", (79.828, 94.560, 80.780, 94.978)),
        ("resnet101", "resnet101_a2_0-6edb36c7.pth", (81.344, 95.198, 82.224, 95.738)),
        ("resnet152", "resnet152_a2_0-b4c6978f.pth", (81.764, 95.270, 82.620, 95.744)),
        ("resnet50d", "resnet50d_a2_0-a3adc64d.pth", (80.268, 94.642, 81.168, 95.100)),
        ("resnext50_32x4d", "resnext50_32x4d_a2_0-efc76add.pth", (80.444, 94.630, 81.298, 95.110)),
    ),
)
_A3 = Series(
    tag="a3_in1k",
    source=_SOURCE.format("A3, 100 epochs at 160 pixels,"),
    folder=_RSB,
    size=160,
    test_size=224,
    test_crop=0.95,
    rows=(
        ("resnet18", "resnet18_a3_0-40c531c8.pth", (65.664, 86.278, 68.246, 88.158)),
        ("resnet34", "resnet34_a3_0-a20cabb6.pth", (70.572, 89.522, 72.982, 91.116)),
        ("resnet50", "resnet50_a3_0-59cae1ef.pth", (75.994, 92.494, 78.052, 93.780)),
        ("resnet101", "resnet101_a3_0-1db14157.pth", (77.928, 93.686, 79.820, 94.614)),
        ("resnet152", "resnet152_a3_0-134d4688.pth", (78.896, 94.124, 80.548, 95.004)),
        ("resnet50d", "resnet50d_a3_0-403fdfad.pth", (77.222, 93.256, 78.742, 94.236)),
        ("resnext50_32x4d", "resnext50_32x4d_a3_0-3e450271.pth", (77.734, 93.314, 79.252, 94.290)),
    ),
)
_A1H_176 = Series(
    tag="a1h_in1k",
    source=_SOURCE.format("A1 with stronger augmentation, at 176 pixels,"),
    folder=_RSB,
    size=176,
    crop=0.9,
    test_size=224,
    rows=(("resnet50", "resnet50_a1h2_176-001a1197.pth", (79.260, 94.498, 80.652, 95.312)),),
)
_A1H = Series(
    tag="a1h_in1k",
    source=_SOURCE.format("A1 with stronger augmentation,"),
    folder=_RSB,
    test_size=288,
    rows=(
        ("resnet101", "resnet101_a1h-36d3f2aa.pth", (81.950, 95.760, 82.802, 96.320)),
        ("resnet152", "resnet152_a1h-dc400468.pth", (82.818, 96.124, 83.494, 96.522)),
        ("resnext50_32x4d", "resnext50_32x4d_a1h-0146ab0a.pth", (81.140, 95.320, 82.012, 95.932)),
    ),
)
_A1H_V2 = Series(
    tag="a1h_in1k",
    source=_SOURCE.format("A1 with stronger augmentation,"),
    test_size=288,
    half=True,
    rows=(
        ("resnetv2_50", "", (80.406, 95.084, 81.408, 95.712)),
        ("resnetv2_101", "", (82.042, 95.866, 83.002, 96.444)),
    ),
)
_BCD = tuple(
    Series(
        tag=f"{recipe}_in1k",
        source=_SOURCE.format(recipe[0].upper()),
        folder=_RSB,
        test_size=288,
        rows=(("resnet50", f"resnet50_{recipe}-{digits}.pth", accuracies),),
    )
    for recipe, digits, accuracies in (
        ("b1k", "532a802a", (79.564, 94.622, 80.706, 95.432)),
        ("b2k", "1ba180c1", (79.380, 94.576, 80.470, 95.308)),
        ("c1", "5ba5e060", (79.766, 94.958, 80.928, 95.554)),
        ("c2", "d01e05b2", (79.868, 94.866, 80.856, 95.526)),
        ("d", "f39db8af", (79.904, 94.666, 81.012, 95.456)),
    )
)
_C1_TPU = Series(
    tag="c1_in1k",
    source=_SOURCE.format("C"),
    folder=_TPU,
    test_size=288,
    rows=(
        ("resnext101_64x4d", "resnext101_64x4d_c-0d0e0cc0.pth", (82.446, 95.920, 83.158, 96.370)),
    ),
)
SERIES = (_A1, _A2, _A3, _A1H_176, _A1H, _A1H_V2, *_BCD, _C1_TPU)
