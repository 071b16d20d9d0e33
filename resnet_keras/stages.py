"""Stage boundaries: freezing, unfreezing, cuts, and feature pyramids."""

from __future__ import annotations

import re
from typing import Literal, get_args

import keras

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.layers import functional, is_head

Boundary = Literal["stem", "stage1", "stage2", "stage3", "stage4", "pool"]
Start = Literal["all", "stage1", "stage2", "stage3", "stage4", "head"]
BatchNormMode = Literal["frozen", "affine", "train", "synchronized"]

BOUNDARIES: tuple[str, ...] = get_args(Boundary)
STARTS: tuple[str, ...] = get_args(Start)
PARTS = (*BOUNDARIES[:-1], "head")
_PART = re.compile(r"stage\d")


def part_of(layer: keras.layers.Layer) -> str:
    """Returns the part that a layer belongs to, by its name: "stem", "stage1" to "head"."""
    return part_named(layer.name)


def part_named(name: str) -> str:
    """Returns the part that a layer of that name belongs to."""
    if stage := _PART.match(name):
        return stage.group()
    return "head" if is_head(name) else "stem"


def freeze(
    model: keras.Model, through: Boundary = "stage4", batch_norm: BatchNormMode = "frozen"
) -> None:
    """Freezes everything up to and including a stage; what follows is left as it is.

    Compile the model again afterwards: Keras ignores a change of trainability until then, so a
    model that was compiled asks for it. The head is never frozen, its own batch norm included.

    Args:
        model: A model of `build_resnet`.
        through: The last part that is frozen; "pool" freezes all but the head.
        batch_norm: What happens to batch norm inside what is frozen: "frozen" (nothing moves),
            "affine" (gamma and beta train, the statistics stay), "train" or "synchronized" (all
            of it moves). Where replicas share a batch, each takes the statistics of its own part
            with "train", and those of the whole batch with "synchronized"; on one device the two
            are the same.

    Raises:
        ValueError: If the stage or the mode is unknown.

    Example:
        >>> model = build_resnet(18, num_classes=5, width=0.25)
        >>> freeze(model, through="stage4")
        >>> [variable.path for variable in model.trainable_variables]
        ['logits/kernel', 'logits/bias']
    """
    _check("through", through, BOUNDARIES)
    frozen = PARTS[: PARTS.index("stage4" if through == "pool" else through) + 1]
    _set_trainable(model, frozen, trainable=False, batch_norm=batch_norm)


def unfreeze(
    model: keras.Model, start: Start = "stage4", batch_norm: BatchNormMode = "train"
) -> None:
    """Makes everything from a stage on trainable; what comes before is left as it is.

    Compile the model again afterwards, see `freeze`.

    Args:
        model: A model of `build_resnet`.
        start: The first part that trains: "all", "stage1" to "stage4", or "head".
        batch_norm: What happens to batch norm inside what trains: "train" or "synchronized" (all
            of it moves; where replicas share a batch, by the statistics of each one's own part,
            or by those of the whole batch; the same on one device), "affine" (gamma and beta
            train, the statistics stay) or "frozen" (nothing moves). That of the head, whose
            statistics start at 0 and 1, always trains with the head; "synchronized" holds for it.

    Raises:
        ValueError: If the stage or the mode is unknown, or the model has no such stage.

    Example:
        >>> model = build_resnet(18, num_classes=5, width=0.25)
        >>> freeze(model)
        >>> unfreeze(model, start="stage4", batch_norm="affine")
    """
    check_start(model, start)
    trained = PARTS if start == "all" else PARTS[PARTS.index(start) :]
    _set_trainable(model, trained, trainable=True, batch_norm=batch_norm)


def check_start(model: keras.Model, start: Start) -> None:
    """Refuses a part that there is not, or that this model does not have."""
    _check("start", start, STARTS)
    parts = {part_of(layer) for layer in model.layers}
    if start.startswith("stage") and start not in parts:
        raise ValueError(
            f"`start` must be a part of the model {model.name!r}, which has "
            f"{[part for part in PARTS if part in parts]}. Received: start={start!r}"
        )


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def _set_trainable(
    model: keras.Model, parts: tuple[str, ...], *, trainable: bool, batch_norm: str
) -> None:
    _check("batch_norm", batch_norm, get_args(BatchNormMode))
    if not model.trainable:
        # A model that is frozen as a whole hides the settings of its layers.
        model.trainable = True
        for layer in model.layers:
            layer.trainable = False
    for layer in model.layers:
        if part_of(layer) not in parts:
            continue
        if isinstance(layer, BatchNorm) and not is_head(layer.name):
            layer.trainable = batch_norm != "frozen"
            layer.fixed_statistics = batch_norm == "affine"
            layer.synchronized = batch_norm == "synchronized"
        else:
            layer.trainable = trainable
            if isinstance(layer, BatchNorm):
                layer.synchronized = batch_norm == "synchronized"
    # Keras would go on with the old setting without a word; not being compiled, it asks.
    model.compiled = False


def boundary_layer(model: keras.Model, boundary: Boundary) -> keras.layers.Layer:
    """Returns the layer whose output is the boundary: the last one of that part.

    Raises:
        ValueError: If the boundary is unknown, or the model has no such part.
    """
    _check("boundary", boundary, BOUNDARIES)
    if boundary == "pool":
        found = [layer for layer in model.layers if layer.name == "head_pool"]
    else:
        found = [layer for layer in model.layers if part_of(layer) == boundary]
    if not found:
        raise ValueError(
            f"The model must contain the boundary it is cut at. Received: boundary={boundary!r} "
            f"for the model {model.name!r}, which has no such layer"
        )
    return found[-1]


def split_at(model: keras.Model, boundary: Boundary) -> tuple[keras.Model, keras.Model]:
    """Cuts the model behind a stage: pixels to features, and features to what it returns.

    Both parts share their layers, and so their weights, with the model.

    Args:
        model: A model of `build_resnet`.
        boundary: The last part of the first model: "stem", "stage1" to "stage4", or "pool".

    Returns:
        Two flat Functional models; the second takes what the first returns.

    Raises:
        ValueError: If the boundary is unknown, or the model has no such part.

    Example:
        >>> model = build_resnet(18, num_classes=5, width=0.25)
        >>> first, second = split_at(model, "stage3")
        >>> first.output.shape, second.output.shape
        ((None, None, None, 64), (None, 5))
    """
    cut = boundary_layer(model, boundary).output
    if cut is model.output:
        raise ValueError(
            f"The model must go on behind the boundary. Received: boundary={boundary!r}, which "
            f"is the output of the model {model.name!r}"
        )
    first = functional(model.input, cut, name=f"{model.name}_through_{boundary}")
    second = functional(cut, model.output, name=f"{model.name}_after_{boundary}")
    return first, second


def feature_pyramid(model: keras.Model, stages: tuple[int, ...] | None = None) -> keras.Model:
    """Returns the model from pixels to the features of several stages, for detectors.

    The features of stage `n` are named "C2" to "C5" as in Lin et al. 2016, arXiv 1612.03144. At
    sizes divisible by 32 each is exactly 4, 8, 16 and 32 times smaller than the picture, unless
    `output_stride` says otherwise; `stage_summary` shows stride and channels. The layers, and so
    the weights, are shared with the model. With pre-activation the last stage includes the final
    norm and ReLU; the others end with the sum, as the next stage gets it.

    Args:
        model: A model of `build_resnet`, with or without a head.
        stages: Numbers of the stages, 1 to 4, in increasing order; None for all there are.

    Returns:
        A flat Functional model with a dictionary of features, `(batch, height / stride, width /
        stride, channels)` each.

    Raises:
        ValueError: If the model has no such stage, or none is wanted.

    Example:
        >>> model = build_resnet(18, num_classes=None, width=0.25, input_shape=(64, 64, 3))
        >>> {name: level.shape for name, level in feature_pyramid(model, (2, 3, 4)).output.items()}
        {'C3': (None, 8, 8, 32), 'C4': (None, 4, 4, 64), 'C5': (None, 2, 2, 128)}
    """
    known = {part_of(layer) for layer in model.layers}
    if stages is None:
        stages = tuple(n for n in range(1, len(PARTS) - 1) if f"stage{n}" in known)
    if not stages or list(stages) != sorted({*stages}) or {f"stage{n}" for n in stages} - known:
        raise ValueError(
            "`stages` must hold numbers of stages that the model has, in increasing order. "
            f"Received: stages={stages!r} for the model {model.name!r}"
        )
    levels = {f"C{n + 1}": boundary_layer(model, f"stage{n}").output for n in stages}  # type: ignore[arg-type]
    return functional(model.input, levels, name=f"{model.name}_pyramid")
