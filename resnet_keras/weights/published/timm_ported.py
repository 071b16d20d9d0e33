"""Weights of others that timm publishes under its names.

Accuracies: results/results-imagenet.csv of timm at commit 7479d451a6df (October 2024), measured
with timm's pictures, so they differ a little from those of the first publishers.
"""

from __future__ import annotations

import dataclasses

from resnet_keras.weights.published.timm_series import Series

_TORCH = "https://download.pytorch.org/models"
_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1"
_FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files"
_NOT_COMMERCIAL = "CC-BY-NC-4.0"

_TV = Series(
    tag="tv_in1k",
    source="torchvision (IMAGENET1K_V1), on ImageNet-1k, published by timm",
    folder=_TORCH,
    crop=0.875,
    interpolation="bilinear",
    licence="BSD-3-Clause",
    rows=(
        ("resnet18", "resnet18-f37072fd.pth", (69.752, 89.080)),
        ("resnet34", "resnet34-b627a593.pth", (73.298, 91.422)),
        ("resnet50", "resnet50-0676ba61.pth", (76.156, 92.866)),
        ("resnet101", "resnet101-63fe2227.pth", (77.404, 93.552)),
        ("resnet152", "resnet152-394f9c45.pth", (78.330, 94.046)),
        ("wide_resnet50_2", "wide_resnet50_2-95faca4d.pth", (78.480, 94.086)),
        ("wide_resnet101_2", "wide_resnet101_2-32ee1156.pth", (78.848, 94.312)),
        ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth", (77.632, 93.674)),
        ("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth", (79.314, 94.524)),
        ("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", (82.978, 96.252)),
    ),
)
_TV2 = Series(
    tag="tv2_in1k",
    source="torchvision (IMAGENET1K_V2), on ImageNet-1k at 176 pixels, published by timm",
    folder=_TORCH,
    size=176,
    crop=0.875,
    interpolation="bilinear",
    test_size=224,
    test_crop=0.965,
    licence="BSD-3-Clause",
    rows=(
        ("resnet50", "resnet50-11ad3fa6.pth", (79.432, 94.632, 80.844, 95.420)),
        ("resnet101", "resnet101-cd907fc2.pth", (79.906, 94.604, 81.906, 95.768)),
        ("resnet152", "resnet152-f82ba261.pth", (80.212, 94.654, 82.294, 96.000)),
        ("wide_resnet50_2", "wide_resnet50_2-9ba9bcbe.pth", (80.436, 95.082, 81.598, 95.764)),
        ("wide_resnet101_2", "wide_resnet101_2-d733dc28.pth", (80.488, 94.980, 82.516, 96.012)),
        ("resnext50_32x4d", "resnext50_32x4d-1a0047aa.pth", (79.374, 94.302, 81.176, 95.348)),
        ("resnext101_32x8d", "resnext101_32x8d-110c445d.pth", (81.990, 95.716, 82.832, 96.232)),
    ),
)
_GLUON_1K = Series(
    tag="gluon_in1k",
    source="GluonCV, on ImageNet-1k, published by timm",
    folder=_GLUON,
    crop=0.875,
    rows=(
        ("resnet18", "gluon_resnet18_v1b-0757602b.pth", (70.844, 89.750)),
        ("resnet34", "gluon_resnet34_v1b-c6d82d59.pth", (74.574, 91.988)),
        ("resnet50", "gluon_resnet50_v1b-0ebe02e2.pth", (77.580, 93.726)),
        ("resnet101", "gluon_resnet101_v1b-3b017079.pth", (79.306, 94.538)),
        ("resnet152", "gluon_resnet152_v1b-c1edb0dd.pth", (79.712, 94.720)),
        ("resnet50d", "gluon_resnet50_v1d-818a1b1b.pth", (79.080, 94.458)),
        ("resnet101d", "gluon_resnet101_v1d-0f9c8644.pth", (80.466, 95.034)),
        ("resnet152d", "gluon_resnet152_v1d-bd354e12.pth", (80.476, 95.196)),
        ("resnext50_32x4d", "gluon_resnext50_32x4d-e6a097c1.pth", (79.354, 94.424)),
        ("resnext101_32x4d", "gluon_resnext101_32x4d-b253c8c4.pth", (80.336, 94.908)),
        ("resnext101_64x4d", "gluon_resnext101_64x4d-f9a8e184.pth", (80.640, 95.000)),
    ),
)
_SSL = Series(
    tag="fb_ssl_yfcc100m_ft_in1k",
    source="Facebook, semi-supervised on YFCC100M (arXiv 1905.00546), then on ImageNet-1k",
    folder=_FACEBOOK,
    crop=0.875,
    interpolation="bilinear",
    licence=_NOT_COMMERCIAL,
    rows=(
        ("resnet18", "semi_supervised_resnet18-d92f0530.pth", (72.636, 91.416)),
        ("resnet50", "semi_supervised_resnet50-08389792.pth", (79.252, 94.826)),
        ("resnext50_32x4d", "semi_supervised_resnext50_32x4-ddb3e555.pth", (80.316, 95.386)),
        ("resnext101_32x4d", "semi_supervised_resnext101_32x4-dc43570a.pth", (80.936, 95.732)),
        ("resnext101_32x8d", "semi_supervised_resnext101_32x8-2cfe2f8b.pth", (81.620, 96.036)),
        ("resnext101_32x16d", "semi_supervised_resnext101_32x16-15fffa57.pth", (81.880, 96.100)),
    ),
)
_SWSL = Series(
    tag="fb_swsl_ig1b_ft_in1k",
    source="Facebook, semi-weakly supervised on 940 million pictures of Instagram "
    "(arXiv 1905.00546), then on ImageNet-1k",
    folder=_FACEBOOK,
    crop=0.875,
    interpolation="bilinear",
    licence=_NOT_COMMERCIAL,
    rows=(
        ("resnet18", "semi_weakly_supervised_resnet18-118f1556.pth", (73.288, 91.754)),
        ("resnet50", "semi_weakly_supervised_resnet50-16a12f1b.pth", (81.146, 95.980)),
        ("resnext50_32x4d", "semi_weakly_supervised_resnext50_32x4-72679e44.pth", (82.162, 96.224)),
        (
            "resnext101_32x4d",
            "semi_weakly_supervised_resnext101_32x4-3f87e46b.pth",
            (83.268, 96.760),
        ),
        (
            "resnext101_32x8d",
            "semi_weakly_supervised_resnext101_32x8-b4712904.pth",
            (84.282, 97.174),
        ),
        (
            "resnext101_32x16d",
            "semi_weakly_supervised_resnext101_32x16-f3559a9c.pth",
            (83.346, 96.844),
        ),
    ),
)
_WSL = Series(
    tag="fb_wsl_ig1b_ft_in1k",
    source="Facebook, weakly supervised on 940 million pictures of Instagram (arXiv 1805.00932), "
    "then on ImageNet-1k",
    folder=_TORCH,
    crop=0.875,
    interpolation="bilinear",
    licence=_NOT_COMMERCIAL,
    rows=(
        ("resnext101_32x8d", "ig_resnext101_32x8-c38310e5.pth", (82.720, 96.624)),
        ("resnext101_32x16d", "ig_resnext101_32x16-c6f796b0.pth", (84.164, 97.188)),
        ("resnext101_32x32d", "ig_resnext101_32x32-e4b90b00.pth", (85.098, 97.442)),
    ),
)
# timm names these weights but cannot build the network, and so has not put them on the hub;
# accuracy: github.com/facebookresearch/WSL-Images.
_WSL_48 = dataclasses.replace(
    _WSL,
    rows=(("resnext101_32x48d", "ig_resnext101_32x48-3e41cc8a.pth", (85.4, 97.6)),),
    on_hub=False,
)
SERIES = (_TV, _TV2, _GLUON_1K, _SSL, _SWSL, _WSL, _WSL_48)
