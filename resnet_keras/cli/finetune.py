"""`resnet-keras finetune`: from a folder of pictures to a run folder with a served model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from typer import Option, echo

from resnet_keras.cli import options
from resnet_keras.cli.common import (
    LIGHT,
    PICTURES,
    RUN,
    BatchSize,
    FlipsOption,
    OnBad,
    PartShare,
    PrecisionOption,
    Source,
    import_tensorflow,
)
from resnet_keras.cli.config import ConfigOption
from resnet_keras.cli.results import finish


def finetune(
    source: Source,
    weights: Annotated[
        str,
        Option(help='"imagenet", a name in `weights list`, a file, a run folder, or "none".'),
    ] = "open_nsfw",
    depth: Annotated[
        int, Option(help='That of "imagenet" and "none": 18, 34, 50, 101 or 152.')
    ] = 50,
    config: ConfigOption = None,
    run_dir: Annotated[
        Path | None,
        Option(help="Run folder.  \\[default: runs/NAME of the pictures]", rich_help_panel=RUN),
    ] = None,
    last_stage: options.LastStage = None,
    pooling: options.Pooling = None,
    head: options.Head = None,
    head_normalization: options.HeadNormalization = None,
    head_activation: options.HeadActivation = None,
    dropout: options.Dropout = 0.0,
    head_epochs: options.HeadEpochs = 5,
    epochs: options.Epochs = 10,
    start: options.Start = "stage4",
    optimizer: options.Optimizer = "adamw",
    head_learning_rate: options.HeadLearningRate = None,
    learning_rate: options.LearningRate = None,
    weight_decay: options.WeightDecay = 1e-4,
    batch_norm: options.BatchNorm = "frozen",
    label_smoothing: options.LabelSmoothing = 0.0,
    ema: options.Ema = 0.0,
    accumulate: options.Accumulate = 1,
    class_balance: options.ClassBalance = False,
    layer_decay: options.LayerDecay = 1.0,
    small_size: options.SmallSize = None,
    flip: options.Flip = "horizontal",
    augment: options.Augment = "flips",
    monitor: options.Monitor = "accuracy",
    image_size: Annotated[
        int | None,
        Option(
            min=32, help="In pixels.  \\[default: that of the weights]", rich_help_panel=PICTURES
        ),
    ] = None,
    crop: Annotated[
        float | None,
        Option(
            min=0.1,
            max=1.0,
            help="Share of the short side that is kept.  \\[default: that of the weights]",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None,
        Option(
            help="How pictures are resized.  \\[default: that of the weights]",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    batch_size: BatchSize = 32,
    validation: PartShare = 0.15,
    test: PartShare = 0.15,
    on_bad_image: OnBad = "error",
    cache: Annotated[
        Literal["auto", "memory", "disk", "none"],
        Option(help="Where activations of the frozen part are kept.", rich_help_panel=RUN),
    ] = "auto",
    cache_bits: Annotated[
        Literal["8", "16", "32"],
        Option(help="Bits of a cached value.", rich_help_panel=RUN),
    ] = "8",
    cache_dir: Annotated[
        Path | None,
        Option(help="Keeps the activations for other runs there.", rich_help_panel=RUN),
    ] = None,
    precision: PrecisionOption = "auto",
    views: Annotated[
        int | None,
        Option(
            min=1,
            help="Cached versions of a picture.  \\[default: one a flip, three if light]",
            rich_help_panel=RUN,
        ),
    ] = None,
    strategy: Annotated[
        Literal["auto", "none", "mirrored", "multiworker", "tpu"],
        Option(
            help="Devices and processes that train together; auto takes what it finds.",
            rich_help_panel=RUN,
        ),
    ] = "auto",
    join_seconds: Annotated[
        float, Option(min=1.0, help="How long workers wait for each other.", rich_help_panel=RUN)
    ] = 300.0,
    flips: FlipsOption = "none",
    seed: Annotated[int, Option(min=0, rich_help_panel=RUN)] = 0,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in the folder.", rich_help_panel=RUN)
    ] = False,
    force: Annotated[
        bool, Option("--force", help="Delete the run in the folder first.", rich_help_panel=RUN)
    ] = False,
    export: Annotated[
        bool, Option(help="Write a SavedModel into the run folder.", rich_help_panel=RUN)
    ] = True,
) -> None:
    """Fine-tunes pretrained weights on your pictures: the head first, then the last stages.

    Example: resnet-keras finetune photos/ --epochs 10 --on-bad-image skip

    Options may also come from a file: resnet-keras finetune --config options.yaml
    """
    hidden = _units(head)
    devices = import_tensorflow(strategy, join_seconds)
    import keras

    from resnet_keras import Augmentation, Recipe, build_resnet, fine_tune, load_images
    from resnet_keras.distribution.replicas import replicas_of
    from resnet_keras.training.schedule import Schedule
    from resnet_keras.weights import read_weights, resolve

    schedule = Schedule(
        head_epochs=head_epochs,
        epochs=epochs,
        start=start,
        optimizer=optimizer,
        head_learning_rate=head_learning_rate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_norm=batch_norm,
        label_smoothing=label_smoothing,
        ema=ema,
        accumulate=accumulate,
        small_size=small_size,
        class_balance=class_balance,
        layer_decay=layer_decay,
    )

    keras.utils.set_random_seed(seed)
    read = None if weights == "none" else read_weights(resolve(weights, depth))
    recipe = read.record.recipe if read else Recipe()
    data = load_images(
        source,
        recipe=dataclasses.replace(
            recipe,
            crop=crop or recipe.crop,
            interpolation=interpolation or recipe.interpolation,
        ),
        image_size=image_size,
        batch_size=batch_size,
        validation=validation,
        test=test,
        seed=seed,
        on_bad_image=on_bad_image,
        strategy=devices,
    )
    echo(str(data.report))
    folder = run_dir or Path("runs") / default_name(source)
    result = fine_tune(
        build_resnet(
            None if read else depth,
            weights=read,
            num_classes=len(data.class_names),
            last_stage=last_stage,
            pooling=pooling,
            head=hidden,
            head_normalization=head_normalization,
            head_activation=head_activation,
            dropout=dropout,
        ),
        data,
        run_dir=folder,
        phases=schedule.phases(),
        augmentation=Augmentation(flip, **(LIGHT if augment == "light" else {})),
        precision=precision,
        cache=None if cache == "none" else cache,
        cache_bits=int(cache_bits),  # type: ignore[arg-type]
        cache_dir=cache_dir,
        views=views,
        monitor=monitor,
        strategy=devices,
        flips=flips,
        seed=seed,
        resume=resume,
        force=force,
    )
    if replicas_of(devices).workers.is_chief:
        finish(result, data, export=export)


def _units(head: str | None) -> tuple[int, ...] | None:
    """Returns the units of hidden layers; None for those of the weights."""
    if head is None:
        return None
    try:
        return tuple(int(units) for units in head.split(",") if units.strip())
    except ValueError:
        raise ValueError(
            "`--head` must give the units of each hidden layer, such as 256,128, or be empty. "
            f"Received: {head!r}"
        ) from None


def default_name(source: str) -> str:
    """Returns the name of a run over these pictures."""
    return source.removeprefix("tfds:").rstrip("/").replace("\\", "/").split("/")[-1] or "run"
