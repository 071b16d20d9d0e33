"""Reading any ONNX export of a ResNet: by its graph, never by the names that an exporter chose."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from resnet_keras.records import Recipe, Record
from resnet_keras.weights.adapt import first_kernel
from resnet_keras.weights.files import Weights, listed
from resnet_keras.weights.onnx_elementwise import ELEMENTWISE
from resnet_keras.weights.onnx_graph import Graph, load_graph
from resnet_keras.weights.onnx_layers import LAYERS
from resnet_keras.weights.onnx_network import Network, Walk, conv_of
from resnet_keras.weights.onnx_spec import spec_of
from resnet_keras.weights.onnx_trace import Tracer
from resnet_keras.weights.onnx_values import Conv, Dense, Value

# torch's and the paper's, for files whose batch norms are already affine maps.
_DEFAULT_EPSILON = 1e-5
_logger = logging.getLogger("resnet_keras")


def read_onnx(path: str | Path, *, recipe: Recipe | None = None, bgr: bool = False) -> Weights:
    """Reads the weights of a ResNet of version 1, 1.5 or "d" from an ONNX file.

    Convolutions are named by their place in the graph. What follows each (a BatchNormalization, a
    bias, or any chain of additions and multiplications with constants) becomes its batch norm. A
    chain keeps its outputs, but not the statistics it was made from: its moving variance is 1.

    The models of this package take RGB. For weights that want BGR the input channels of the first
    kernel are reversed here, which is exact and costs nothing at run time.

    Args:
        path: The file; its external data must lie beside it.
        recipe: How pixels are prepared, channels in RGB order; ImageNet's if None. If the graph
            itself normalises its input, its mean and standard deviation replace the recipe's.
        bgr: Whether the file wants its colours in the order blue, green, red.

    Returns:
        The tensors and a record whose spec was read from the graph.

    Raises:
        WeightsError: If the file is missing, damaged, no ResNet that a `ResNetSpec` describes, or
            if it holds tensors that belong to no layer.

    Example:
        >>> from resnet_keras.weights import read_onnx
        >>> read_onnx("resnet50.onnx")
        Traceback (most recent call last):
        ...
        resnet_keras.errors.WeightsError: resnet50.onnx cannot be read: No such file or directory.
    """
    path = Path(path)
    graph = load_graph(path)
    outputs, sources = Tracer(graph, {**ELEMENTWISE, **LAYERS}).run()
    network = Walk(graph).network(outputs, sources)
    colours = conv_of(network.stem[0]).kernel.shape[1]
    if colours != 3 and (bgr or network.picture.order or network.picture.affine):
        raise graph.refuse(f"it prepares {colours} input channels, where only three colours can be")
    epsilon = _epsilon(network, graph)
    spec = spec_of(network, graph, epsilon)
    if left := graph.unused():
        raise graph.refuse(f"{len(left)} of its tensors belong to no layer: {listed(left)}")
    record = Record(
        spec=spec,
        recipe=_recipe(network.picture, recipe, graph, bgr=bgr),
        name=path.stem,
        source=f"ONNX file {path.name}",
    )
    return Weights(record, _tensors(network, epsilon, bgr=bgr))


def _epsilon(network: Network, graph: Graph) -> float:
    """Returns the epsilon that all batch norms share."""
    norms = [value.batch_norm for value in network.convolutions().values()]
    found = sorted({norm.epsilon for norm in norms if norm is not None})
    if len(found) > 1:
        raise graph.refuse(f"its batch norms have different epsilons: {found}")
    return found[0] if found else _DEFAULT_EPSILON


def _tensors(network: Network, epsilon: float, *, bgr: bool) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, value in network.convolutions().items():
        tensors[f"{name}_conv/kernel"] = conv_of(value).kernel.transpose(2, 3, 1, 0)
        norm = _batch_norm(value, conv_of(value), epsilon)
        tensors |= {f"{name}_bn/{variable}": array for variable, array in norm.items()}
    order = _rgb_order(network.picture, bgr=bgr)
    if order != (0, 1, 2):
        first = first_kernel(tensors)
        tensors[first] = tensors[first][:, :, np.argsort(order)]
    if network.head is not None:
        tensors |= _head(network.head)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}


def _batch_norm(value: Value, conv: Conv, epsilon: float) -> dict[str, np.ndarray]:
    """Returns the batch norm that equals what follows a convolution."""
    shape = conv.kernel.shape[:1]
    if value.batch_norm is not None:
        norm = value.batch_norm
        gamma, beta, mean, variance = norm.gamma, norm.beta, norm.mean, norm.variance
    else:
        scale = np.ones(1) if value.scale is None else value.scale
        gamma, beta, mean = scale * np.sqrt(1 + epsilon), value.post, -value.pre
        variance = np.ones(1)
    arrays = {
        "gamma": gamma,
        "beta": beta,
        "moving_mean": mean - conv.bias,
        "moving_variance": variance,
    }
    return {name: np.broadcast_to(array, shape) for name, array in arrays.items()}


def _head(value: Value) -> dict[str, np.ndarray]:
    assert isinstance(value.source, Dense)
    scale = np.ones(1) if value.scale is None else value.scale
    bias = (value.source.bias + value.pre) * scale + value.post
    return {"logits/kernel": value.source.kernel * scale, "logits/bias": bias}


def _rgb_order(picture: Value, *, bgr: bool) -> tuple[int, ...]:
    """Returns for each channel that the stem reads which of red, green, blue (0, 1, 2) it is."""
    order = picture.order or (0, 1, 2)
    return tuple(2 - channel for channel in order) if bgr else order


def _recipe(picture: Value, given: Recipe | None, graph: Graph, *, bgr: bool) -> Recipe:
    if given is None:
        _logger.warning(
            "%s does not say how its pixels are prepared; assumed is ImageNet's recipe%s; "
            "`read_onnx(path, recipe=..., bgr=...)` takes another",
            graph.label,
            " with the mean and standard deviation of the graph" if picture.affine else "",
        )
    recipe = given or Recipe()
    if not picture.affine:
        return recipe
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, std = _normalisation(picture, np.argsort(_rgb_order(picture, bgr=bgr)))
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise graph.refuse(f"it multiplies its input by {picture.scale}, which must be positive")
    return dataclasses.replace(recipe, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _normalisation(picture: Value, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of the graph's own preprocessing, in RGB order."""
    scale = np.ones(3) if picture.scale is None else picture.scale * np.ones(3)
    std = (1 / scale)[order]
    mean = -(picture.pre + picture.post / scale)[order]
    if (np.abs(mean) <= 1).all() and (np.abs(std) <= 1).all() and not (std == 1).all():
        # The graph takes [0, 1], as torch's transforms give it.
        return mean * 255, std * 255
    return mean, std
