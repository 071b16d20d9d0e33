"""The options of a network and of its training."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Option

from resnet_keras.cli.common import Flips

NETWORK, TRAINING = "Network", "Training"

LastStage = Annotated[
    int | None,
    Option(
        min=1,
        max=4,
        help="Stage that the network ends with.  \\[default: that of the weights]",
        rich_help_panel=NETWORK,
    ),
]
Pooling = Annotated[
    Literal["avg", "max", "both"] | None,
    Option(
        help="What the head sees of the features.  \\[default: that of the weights]",
        rich_help_panel=NETWORK,
    ),
]
Head = Annotated[
    str | None,
    Option(
        metavar="UNITS",
        help='Hidden layers of the head, such as 256,128; "" for none.  '
        "\\[default: those of the weights]",
        rich_help_panel=NETWORK,
    ),
]
HeadNormalization = Annotated[
    Literal["none", "batch", "layer"] | None,
    Option(
        help="Of the inputs of each layer of the head.  \\[default: that of the weights]",
        rich_help_panel=NETWORK,
    ),
]
HeadActivation = Annotated[
    Literal["relu", "gelu", "silu"] | None,
    Option(
        help="Of the hidden layers of the head.  \\[default: that of the weights]",
        rich_help_panel=NETWORK,
    ),
]
Dropout = Annotated[
    float,
    Option(
        min=0.0,
        max=0.99,
        help="Share of the inputs of each layer of the head dropped in training.",
        rich_help_panel=NETWORK,
    ),
]
HeadEpochs = Annotated[
    int, Option(min=0, help="Epochs in which the head alone trains.", rich_help_panel=TRAINING)
]
Epochs = Annotated[
    int, Option(min=0, help="Epochs of --start and the head.", rich_help_panel=TRAINING)
]
Start = Annotated[
    Literal["stage4", "stage3", "stage2", "stage1", "all"],
    Option(help="First stage that trains after the head.", rich_help_panel=TRAINING),
]
Optimizer = Annotated[Literal["adamw", "sgd"], Option(rich_help_panel=TRAINING)]
HeadLearningRate = Annotated[
    float | None,
    Option(
        min=0.0,
        help="Peak while the head trains alone.  \\[default: by optimizer]",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    Option(min=0.0, help="Peak for --start.  \\[default: by optimizer]", rich_help_panel=TRAINING),
]
WeightDecay = Annotated[float, Option(min=0.0, rich_help_panel=TRAINING)]
BatchNorm = Annotated[
    Literal["frozen", "affine", "train", "synchronized"],
    Option(
        help="Batch norm in the stages that train; synchronized: over all devices.",
        rich_help_panel=TRAINING,
    ),
]
LabelSmoothing = Annotated[float, Option(min=0.0, max=0.99, rich_help_panel=TRAINING)]
Ema = Annotated[
    float,
    Option(
        min=0.0,
        max=0.9999,
        help="Running average of the weights, 0.99 for instance; 0 for none.",
        rich_help_panel=TRAINING,
    ),
]
Accumulate = Annotated[
    int, Option(min=1, help="Batches a step of the optimizer.", rich_help_panel=TRAINING)
]
ClassBalance = Annotated[
    bool,
    Option(
        "--class-balance/--no-class-balance",
        help="Let each class count the same in the loss.",
        rich_help_panel=TRAINING,
    ),
]
LayerDecay = Annotated[
    float,
    Option(
        min=0.01,
        max=1.0,
        help="Factor on the learning rate for each stage further from the head.",
        rich_help_panel=TRAINING,
    ),
]
SmallSize = Annotated[
    int | None,
    Option(
        min=32,
        help="Pixels of the pictures in the first half of --epochs.  \\[default: all the same]",
        rich_help_panel=TRAINING,
    ),
]
Flip = Annotated[
    Flips, Option(help="Flips that leave the class as it is.", rich_help_panel=TRAINING)
]
Augment = Annotated[
    Literal["flips", "light"],
    Option(
        help="flips alone, or small turns, shifts, zooms and changes of light as well.",
        rich_help_panel=TRAINING,
    ),
]
Monitor = Annotated[
    Literal["accuracy", "balanced_accuracy", "f1", "loss"],
    Option(help="What decides which epoch is the best.", rich_help_panel=TRAINING),
]
