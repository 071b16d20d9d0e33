"""What is known about published weights: their files, digests and scores."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from resnet_keras.records import Record

Layout = Literal["torch", "keras_applications", "keras_hub", "classification_models", "onnx"]
Family = Literal[
    "torchvision", "timm", "keras.applications", "KerasHub", "classification_models", "other"
]


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file that somebody published, as it lies there.

    Args:
        url: "https://..." ; "hf://OWNER/REPOSITORY/FILE" on the Hugging Face hub;
            "package://MODULE/FILE" in an installed Python package; "kaggle://HANDLE" for what
            has to be fetched by hand.
        layout: Whose names and shapes its tensors have.
        sha256: Digest in hexadecimal digits, or as many of the first ones as were published.
        md5: Digest in hexadecimal digits, or the first ones, where no sha256 was published.
        size: Length in bytes, 0 if not published.
    """

    url: str
    layout: Layout
    sha256: str = ""
    md5: str = ""
    size: int = 0

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.url.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Score:
    """Published accuracy on the validation part of ImageNet-1k.

    Args:
        top1: Top-1 accuracy, in percent.
        top5: Top-5 accuracy, in percent; None if not published.
        image_size: Side of the pictures, in pixels.
        crop: Share of the resized short side that the picture keeps; None if not published.
    """

    top1: float
    top5: float | None
    image_size: int
    crop: float | None


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """Weights that are known by name.

    Args:
        record: Network, recipe, classes, source and licence.
        family: Who published them.
        files: Where they lie, in the order in which they are tried.
        parameters: Trainable parameters, the head included.
        num_classes: Logits of the head, None if the weights have no head.
        scores: What was published about their accuracy, the recipe's resolution first.
        bgr: Whether the file wants its colours in the order blue, green, red; the first kernel
            is turned round when it is read, so that the network takes RGB.
        antialias: Whether those who trained it resized pictures with antialiasing; here all
            pictures are.
    """

    record: Record
    family: Family
    files: tuple[PublishedFile, ...]
    parameters: int
    num_classes: int | None = 1000
    scores: tuple[Score, ...] = ()
    bgr: bool = False
    antialias: bool = True

    @property
    def name(self) -> str:
        """Name in the registry."""
        return self.record.name

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "record": self.record.to_dict()}
