"""What all layouts of Keras share: layers with named or numbered variables, and numbered layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.layouts.plan import Layer, layers_of
from resnet_keras.weights.layouts.table import Row, Table

# Keras 3 before 3.7 names the layers of a file by their class and number alone.
FIRST_CONV = "conv2d/kernel"
_CLASSES = {"conv": "conv2d", "bn": "batch_normalization", "dense": "dense"}
# Variables of a layer whose file numbers them: a kernel has at least two axes.
_KERNEL = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def tidy(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors by `layer/variable`, whether the file numbers the variables or not.

    Names of groups around a layer are left out where the rest stays unique.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        path, _, variable = name.rpartition("/")
        layers.setdefault(path, {})[variable] = tensor
    tidied: dict[str, np.ndarray] = {}
    for path, variables in layers.items():
        short = path.rpartition("/")[2]
        for variable, tensor in _named(variables).items():
            name = f"{short}/{variable}"
            tidied[f"{path}/{variable}" if name in tidied else name] = tensor
    return tidied


def _named(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    numbers = [str(number) for number in range(len(variables))]
    if sorted(variables) != numbers:
        return variables
    if variables["0"].ndim > 1:
        names: tuple[str, ...] = _KERNEL
    else:
        # Without a scale there is no gamma.
        names = _NORM[-len(numbers) :] if len(numbers) in (3, 4) else ()
    if len(names) < len(numbers):
        return variables
    return {name: variables[number] for number, name in zip(numbers, names, strict=False)}


def keras_table(
    spec: ResNetSpec, names: Collection[str], their_name: Callable[[Layer], str]
) -> Table:
    """Returns the table of a layout that differs from ours in the names of the layers alone.

    Args:
        spec: The network.
        names: Names of the file's tensors, which show whether its layers are numbered.
        their_name: The name of a layer in the layout.
    """
    numbered = number_names(spec) if FIRST_CONV in names else {}
    rows: Table = {}
    for layer in layers_of(spec):
        theirs = numbered[layer.name] if numbered else their_name(layer)
        for variable, shape in layer.variables.items():
            rows[f"{layer.name}/{variable}"] = Row((f"{theirs}/{variable}",), shape)
    return rows


def number_names(spec: ResNetSpec) -> dict[str, str]:
    """Returns for each of our layers its class and number, as Keras counts them in a model.

    Keras orders layers by their distance from the output: a projection comes before the last
    layer of its kind in the branch.
    """
    names: dict[str, str] = {}
    for kind, theirs in _CLASSES.items():
        layers = [layer for layer in layers_of(spec) if layer.kind == kind]
        for at, layer in enumerate(layers):
            if layer.position == "shortcut":
                layers[at - 1 : at + 1] = [layer, layers[at - 1]]
        for number, layer in enumerate(layers):
            names[layer.name] = f"{theirs}_{number}" if number else theirs
    return names
