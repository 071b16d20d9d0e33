"""Weights of timm that were trained alike, as one table."""

from __future__ import annotations

import dataclasses

from resnet_keras.records import Interpolation, Recipe, Record
from resnet_keras.weights.classes import imagenet_names
from resnet_keras.weights.entries import PublishedFile, RegistryEntry, Score
from resnet_keras.weights.published.networks import NETWORKS

RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download"
_HALF = (127.5, 127.5, 127.5)
# Of a network: its name, the file that the hub's was made from ("" if there is none), and top-1
# and top-5 accuracy, at the training resolution and then at the test resolution.
Row = tuple[str, str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True)
class Series:
    """One tag of timm.

    Args:
        tag: What follows the name of the network.
        source: Who trained the weights, and how.
        rows: One row a network.
        folder: Where the files of the rows lie.
        size: Pixels of the training resolution.
        crop: Share of the resized short side at that resolution.
        interpolation: How pictures were resized.
        test_size: Pixels of the resolution that timm tests at, 0 if it is the same.
        test_crop: Share of the resized short side at that resolution.
        half: Whether pixels become (pixel - 127.5) / 127.5; else ImageNet's statistics are used.
        licence: SPDX identifier.
        on_hub: Whether the hub has the weights.
    """

    tag: str
    source: str
    rows: tuple[Row, ...]
    folder: str = ""
    size: int = 224
    crop: float = 0.95
    interpolation: Interpolation = "bicubic"
    test_size: int = 0
    test_crop: float = 1.0
    half: bool = False
    licence: str = "Apache-2.0"
    on_hub: bool = True

    def entries(self) -> tuple[RegistryEntry, ...]:
        """Returns one entry a row."""
        return tuple(self._entry(*row) for row in self.rows)

    def _entry(
        self, network: str, file: str, accuracies: tuple[float | None, ...]
    ) -> RegistryEntry:
        spec, parameters = NETWORKS[network]
        name = f"{network}.{self.tag}"
        return RegistryEntry(
            record=Record(
                spec=spec,
                recipe=self._recipe(),
                class_names=imagenet_names(),
                name=name,
                source=self.source,
                licence=self.licence,
            ),
            family="timm",
            files=self._files(name, file),
            parameters=parameters,
            scores=self._scores(accuracies),
        )

    def _recipe(self) -> Recipe:
        if self.half:
            return Recipe(self.size, self.crop, self.interpolation, _HALF, _HALF)
        return Recipe(self.size, self.crop, self.interpolation)

    def _files(self, name: str, file: str) -> tuple[PublishedFile, ...]:
        """Returns the hub's file, which holds no code, and behind it the one it was made from."""
        files = []
        if self.on_hub:
            files.append(hub_file(name))
        if file:
            digits = file.removesuffix(".pth").rpartition("-")[2]
            files.append(PublishedFile(f"{self.folder}/{file}", "torch", sha256=digits))
        return tuple(files)

    def _scores(self, accuracies: tuple[float | None, ...]) -> tuple[Score, ...]:
        places = ((self.size, self.crop), (self.test_size, self.test_crop))
        pairs = zip(accuracies[::2], accuracies[1::2], strict=True)
        return tuple(
            Score(top1, top5, size, crop)
            for (size, crop), (top1, top5) in zip(places, pairs, strict=False)
            if top1 is not None
        )


def hub_file(name: str) -> PublishedFile:
    """Returns timm's file of these weights on the Hugging Face hub."""
    url = f"hf://timm/{name}/model.safetensors"
    return PublishedFile(url, "torch")
