"""Moving tensors between files and models: completely, by name, or not at all."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from resnet_keras.errors import WeightsError
from resnet_keras.layers import is_head, record_of, set_record
from resnet_keras.records import Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.adapt import absorb_bias, adapt_channels, leave_out_stages
from resnet_keras.weights.files import Weights, listed, write_tensors
from resnet_keras.weights.registry import resolve
from resnet_keras.weights.sources import read_weights

# What a network may have otherwise than its weights: it decides how much of the backbone there is,
# and what the head means, but no tensor of the backbone depends on it.
FREE_FIELDS = (
    "output_stride",
    "last_stage",
    "pooling",
    "head",
    "head_normalization",
    "head_activation",
)
_HEAD = "logits"
_logger = logging.getLogger("resnet_keras")


def save_weights(model: keras.Model, path: str | Path) -> Path:
    """Writes the weights of a model and its record to a `.safetensors` file, atomically.

    Args:
        model: A model from `build_resnet`.
        path: The file to write; its folder is made if missing.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the model was not made by this package.
        WeightsError: If the file cannot be written; what was there is untouched.

    Example:
        >>> import tempfile
        >>> model = build_resnet(18, num_classes=2, width=0.125)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_weights(model, f"{folder}/small.safetensors")
        ...     load_weights(model, path)
    """
    record = record_of(model)
    tensors = {name: _to_numpy(variable) for name, variable in _variables(model).items()}
    return write_tensors(path, tensors, record=record)


def load_weights(
    model: keras.Model, source: str | Path | Weights, *, skip: tuple[str, ...] = ()
) -> None:
    """Loads weights into a model: every tensor of both sides by its name, or none.

    The record of the weights, and so their preprocessing, becomes that of the model. Of weights
    for more stages than the model has, the others are left out, which is said.

    Args:
        model: A model from `build_resnet`.
        source: What `read_weights` takes, or what it returned; "imagenet" means those of the
            depth of the model.
        skip: Names of layers to leave as they are, such as `("logits",)` for another head.

    Raises:
        ValueError: If the model was not made by this package.
        WeightsError: If the weights cannot be read, are of another network, or do not cover
            exactly the layers of the model. The model is unchanged then.
    """
    spec = record_of(model).spec
    weights = source if isinstance(source, Weights) else read_weights(resolve(source, spec.depth))
    _check_spec(weights.record, spec)
    weights = leave_out_stages(weights, spec.end)
    weights = absorb_bias(adapt_channels(weights, model.input.shape[-1]), set(_variables(model)))
    variables = {name: item for name, item in _variables(model).items() if _layer(name) not in skip}
    tensors = {name: item for name, item in weights.tensors.items() if _layer(name) not in skip}
    _check_skip(skip, {_layer(name) for name in [*_variables(model), *weights.tensors]})
    _check_names(weights, set(variables), set(tensors))
    _check_shapes(weights, variables, tensors)
    for name, variable in variables.items():
        variable.assign(tensors[name])
    _report_skipped(weights, model, skip)
    set_record(model, _loaded_record(weights, spec, skip))


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables that are weights by `layer/variable`; seeds of dropout are none."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def _layer(name: str) -> str:
    return name.partition("/")[0]


def _to_numpy(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def head_layers(model: keras.Model, weights: Weights) -> tuple[str, ...]:
    """Returns the names of the layers with weights in the heads of a model and of weights."""
    layers = {_layer(name) for name in [*_variables(model), *weights.tensors]}
    return tuple(sorted(name for name in layers if is_head(name)))


def _check_spec(record: Record, spec: ResNetSpec) -> None:
    for field in dataclasses.fields(ResNetSpec):
        theirs, ours = getattr(record.spec, field.name), getattr(spec, field.name)
        longer = field.name == "last_stage" and ours > theirs
        if theirs == ours or (field.name in FREE_FIELDS and not longer):
            continue
        if field.name == "conv_bias" and set(ours) < set(theirs):
            continue  # `absorb_bias` takes in those that a batch norm follows
        raise WeightsError(
            f"The weights {record.name!r} are of another network: {field.name}: the weights "
            f"have {theirs!r}, the model {ours!r}; build the model from the weights."
        )


def _check_skip(skip: tuple[str, ...], layers: set[str]) -> None:
    if unknown := set(skip) - layers:
        raise WeightsError(
            f"`skip` must name layers that the model or the weights have. Received: "
            f"{listed(unknown)}"
        )


def _check_names(weights: Weights, ours: set[str], theirs: set[str]) -> None:
    parts = []
    if missing := ours - theirs:
        parts.append(f"missing in the weights: {listed(missing)}")
    if extra := theirs - ours:
        parts.append(f"missing in the model: {listed(extra)}")
    if not parts:
        return
    only_head = {_layer(name) for name in ours ^ theirs} == {_HEAD}
    hint = f'; `skip=("{_HEAD}",)` leaves the head alone' if only_head else ""
    raise WeightsError(
        f"The weights {weights.record.name!r} do not fit the model: {'; '.join(parts)}{hint}."
    )


def _check_shapes(
    weights: Weights, variables: dict[str, keras.Variable], tensors: dict[str, np.ndarray]
) -> None:
    differing = {
        name: f"{name} is {tensors[name].shape} in the weights and {tuple(variable.shape)} "
        "in the model"
        for name, variable in variables.items()
        if tensors[name].shape != tuple(variable.shape)
    }
    if not differing:
        return
    start = f"The weights {weights.record.name!r} do not fit the model"
    same_classes = weights.num_classes == _classes(variables)
    if not same_classes and {_layer(name) for name in differing} == {_HEAD}:
        raise WeightsError(
            f"{start}: they have {weights.num_classes} classes and the model has "
            f"{_classes(variables)}; "
            f'`skip=("{_HEAD}",)` keeps the new head of the model.'
        )
    raise WeightsError(f"{start}: {listed(differing.values(), limit=3)}.")


def _classes(variables: dict[str, keras.Variable]) -> int | None:
    bias = variables.get(f"{_HEAD}/bias")
    return None if bias is None else int(bias.shape[0])


def _report_skipped(weights: Weights, model: keras.Model, skip: Iterable[str]) -> None:
    own = {layer.name for layer in model.layers}
    if _HEAD in skip and _HEAD in own:
        name, theirs = weights.record.name, weights.num_classes
        classes = model.get_layer(_HEAD).units
        if classes == theirs:
            _logger.warning("The head is new: that of %r has other inputs or layers", name)
        else:
            _logger.warning(
                "The head is new: the model has %d classes, %r %s",
                classes,
                name,
                theirs or "no head",
            )
    for layer in skip:
        if layer in own:
            _logger.info("%s keeps its own values: not loaded from %r", layer, weights.record.name)
        else:
            _logger.info(
                "%s of %r is not used: the model has no such layer", layer, weights.record.name
            )


def _loaded_record(weights: Weights, spec: ResNetSpec, skip: tuple[str, ...]) -> Record:
    record = dataclasses.replace(weights.record, spec=spec)
    return dataclasses.replace(record, class_names=()) if _HEAD in skip else record
