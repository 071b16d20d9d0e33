"""The networks that several publishers trained, under the names that torchvision and timm gave."""

from __future__ import annotations

from resnet_keras.specs import ResNetSpec

# Their spec and their trainable parameters, a head of 1000 classes included: `num_params` of
# torchvision's weights, and for the others the parameters of timm 1.0.31's models.
NETWORKS: dict[str, tuple[ResNetSpec, int]] = {
    "resnet18": (ResNetSpec(18), 11_689_512),
    "resnet34": (ResNetSpec(34), 21_797_672),
    "resnet50": (ResNetSpec(50), 25_557_032),
    "resnet101": (ResNetSpec(101), 44_549_160),
    "resnet152": (ResNetSpec(152), 60_192_808),
    "resnet18d": (ResNetSpec(18, "d"), 11_708_744),
    "resnet34d": (ResNetSpec(34, "d"), 21_816_904),
    "resnet50d": (ResNetSpec(50, "d"), 25_576_264),
    "resnet101d": (ResNetSpec(101, "d"), 44_568_392),
    "resnet152d": (ResNetSpec(152, "d"), 60_212_040),
    "resnet200d": (ResNetSpec(200, "d"), 64_693_064),
    "wide_resnet50_2": (ResNetSpec(50, width_per_group=128), 68_883_240),
    "wide_resnet101_2": (ResNetSpec(101, width_per_group=128), 126_886_696),
    "resnext50_32x4d": (ResNetSpec(50, groups=32, width_per_group=4), 25_028_904),
    "resnext50d_32x4d": (ResNetSpec(50, "d", groups=32, width_per_group=4), 25_048_136),
    "resnext101_32x4d": (ResNetSpec(101, groups=32, width_per_group=4), 44_177_704),
    "resnext101_64x4d": (ResNetSpec(101, groups=64, width_per_group=4), 83_455_272),
    "resnext101_32x8d": (ResNetSpec(101, groups=32, width_per_group=8), 88_791_336),
    "resnext101_32x16d": (ResNetSpec(101, groups=32, width_per_group=16), 194_026_792),
    "resnext101_32x32d": (ResNetSpec(101, groups=32, width_per_group=32), 468_530_472),
    "resnext101_32x48d": (ResNetSpec(101, groups=32, width_per_group=48), 828_411_176),
    "resnetv2_18": (ResNetSpec(18, "v2"), 11_687_720),
    "resnetv2_34": (ResNetSpec(34, "v2"), 21_795_880),
    "resnetv2_50": (ResNetSpec(50, "v2"), 25_549_352),
    "resnetv2_101": (ResNetSpec(101, "v2"), 44_541_480),
    "resnetv2_18d": (ResNetSpec(18, "v2d"), 11_706_952),
    "resnetv2_34d": (ResNetSpec(34, "v2d"), 21_815_112),
}
