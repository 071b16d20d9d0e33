"""The weights that are known by name."""

from __future__ import annotations

from pathlib import Path

from resnet_keras.errors import WeightsError
from resnet_keras.weights.entries import RegistryEntry
from resnet_keras.weights.files import listed, near
from resnet_keras.weights.published import ENTRIES

REGISTRY: dict[str, RegistryEntry] = {entry.name: entry for entry in ENTRIES}
_IMAGENET = "imagenet"
_IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
_USUAL_DEPTH = 50


def list_weights() -> tuple[str, ...]:
    """Returns the names of the weights that `build_resnet(weights=...)` knows.

    Example:
        >>> "resnet50.a1_in1k" in list_weights()
        True
    """
    return tuple(sorted(REGISTRY))


def weights_info(name: str) -> RegistryEntry:
    """Returns what is known about weights without reading them.

    Args:
        name: One of `list_weights()`, or "imagenet" for those of depth 50.

    Returns:
        The entry, with its record, licence, files, scores and number of parameters.

    Raises:
        WeightsError: If the name is not known.

    Example:
        >>> entry = weights_info("resnet50.IMAGENET1K_V2")
        >>> entry.record.licence, entry.scores[0].top1
        ('BSD-3-Clause', 80.858)
    """
    name = str(resolve(name))
    if name not in REGISTRY:
        begun = [known for known in REGISTRY if known.startswith(name)]
        raise WeightsError(
            f"{name!r} is no name in the registry, which has {listed(REGISTRY)}."
            f"{near(name, begun or REGISTRY)}"
        )
    return REGISTRY[name]


def resolve(source: str | Path, depth: int | None = None) -> str | Path:
    """Returns the registered name that "imagenet" means, and any other source as it is.

    "imagenet" is torchvision's first set of weights, as timm's safetensors.

    Args:
        source: What `read_weights` takes.
        depth: Number of weighted layers: 18, 34, 50, 101 or 152; 50 if None.

    Raises:
        WeightsError: If there are no such weights for the depth.

    Example:
        >>> resolve("imagenet", 18)
        'resnet18.tv_in1k'
    """
    if source != _IMAGENET:
        return source
    wanted = _USUAL_DEPTH if depth is None else depth
    if wanted not in _IMAGENET_DEPTHS:
        raise WeightsError(
            f"The weights 'imagenet' are of the depths {list(_IMAGENET_DEPTHS)}. Received: "
            f"depth={depth!r}; name others, which `resnet-keras weights list` shows."
        )
    return f"resnet{wanted}.tv_in1k"
