"""`resnet-keras weights convert`: weights of any source as one file of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo


def convert(
    source: Annotated[
        str,
        Argument(
            help="Weights by name, a run folder, or a file of torchvision, timm, Keras or ONNX.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, Argument(help="The .safetensors file to write.", show_default=False)],
    like: Annotated[
        str | None,
        Option(help="Registered weights whose network and preprocessing a file has."),
    ] = None,
    allow_keras: Annotated[
        bool, Option("--allow-keras", help="Read the weights of a .keras archive.")
    ] = False,
) -> None:
    """Converts weights to a file that says what they are and needs no other program.

    Example: resnet-keras weights convert resnet50-11ad3fa6.pth resnet50.safetensors
    """
    if out.suffix.lower() != ".safetensors":
        raise ValueError(f"OUT must end in .safetensors. Received: {str(out)!r}")
    from resnet_keras.weights import read_weights, write_tensors

    weights = read_weights(source, like=like, allow_keras=allow_keras)
    write_tensors(out, weights.tensors, record=weights.record)
    classes = f"{weights.num_classes} classes" if weights.num_classes else "no head"
    echo(
        f"{out}: {weights.record.spec.title}, {classes}, licence "
        f"{weights.record.licence or 'not known'}"
    )
