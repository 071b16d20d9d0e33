"""`resnet-keras evaluate`, `predict` and `export`: what a run folder is good for."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option, echo

from resnet_keras.cli.common import (
    BatchSize,
    FlipsOption,
    Json,
    OnBad,
    PrecisionOption,
    RunDir,
    Source,
    import_tensorflow,
    print_json,
    print_table,
)
from resnet_keras.cli.results import SAVED_MODEL

if TYPE_CHECKING:
    import keras

    from resnet_keras.evaluation import Prediction

DATA_ERROR = 3


def load_run(folder: Path) -> keras.Model:
    """Returns the network of a run folder with its best weights."""
    import_tensorflow()
    from resnet_keras import build_resnet

    return build_resnet(weights=folder)


def evaluate(
    run_dir: RunDir,
    source: Source,
    part: Annotated[
        Literal["train", "val", "test"], Option(help="Part of the pictures, split as in training.")
    ] = "test",
    validation: Annotated[float, Option(min=0.0, max=0.9, help="Share of the split.")] = 0.15,
    test: Annotated[float, Option(min=0.0, max=0.9, help="Share of the split.")] = 0.15,
    seed: Annotated[int, Option(min=0, help="Seed of the split.")] = 0,
    batch_size: BatchSize = 32,
    flips: FlipsOption = "none",
    on_bad_image: OnBad = "error",
    precision: PrecisionOption = "auto",
    json: Json = False,
) -> None:
    """Evaluates a fine-tuned network on labelled pictures.

    Example: resnet-keras evaluate runs/photos photos/ --part test --json
    """
    model = load_run(run_dir)
    from resnet_keras import evaluate, load_images
    from resnet_keras.layers import record_of

    record = record_of(model)
    data = load_images(
        source,
        recipe=record.recipe,
        batch_size=batch_size,
        validation=validation,
        test=test,
        seed=seed,
        on_bad_image=on_bad_image,
    )
    if data.class_names != record.class_names:
        raise ValueError(
            f"The pictures must have the classes of the network, {list(record.class_names)}. "
            f"Received: {list(data.class_names)} in {source}"
        )
    images = getattr(data, part)
    if images is None:
        raise ValueError(f"The pictures must have the part that is evaluated. Received: {part!r}")
    evaluation = evaluate(model, images, flips=flips, precision=precision)
    print_json(evaluation.to_dict()) if json else echo(str(evaluation))


def predict(
    run_dir: RunDir,
    pictures: Annotated[
        list[str], Argument(help="Files, folders or patterns such as '*.jpg'.", show_default=False)
    ],
    top: Annotated[int, Option(min=1, help="Classes shown for each picture.")] = 1,
    flips: FlipsOption = "none",
    batch_size: BatchSize = 32,
    precision: PrecisionOption = "auto",
    json: Json = False,
    csv: Annotated[bool, Option("--csv", help="Print CSV on standard output.")] = False,
) -> None:
    """Classifies pictures; leaves with 3 if one of them could not be read.

    Example: resnet-keras predict runs/photos new/ more/*.jpg --csv
    """
    if json and csv:
        raise ValueError("Choose one form of output. Received: both --json and --csv")
    from resnet_keras.data import list_pictures

    files = list_pictures(pictures)
    model = load_run(run_dir)
    from resnet_keras import predict

    found = predict(
        model,
        files,
        flips=flips,
        batch_size=batch_size,
        on_bad_image="skip",
        precision=precision,
    )
    if json:
        print_json([prediction.to_dict() for prediction in found])
    elif csv:
        _print_csv(found)
    else:
        _print_table(found, top)
    if any(prediction.error for prediction in found):
        raise Exit(DATA_ERROR)


def _print_csv(predictions: list[Prediction]) -> None:
    classes = next((list(found.probabilities) for found in predictions if found.probabilities), [])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["name", "label", "index", *classes, "error"])
    for found in predictions:
        shares = [found.probabilities.get(name, "") for name in classes]
        writer.writerow([found.name, found.label, found.index, *shares, found.error])


def _print_table(predictions: list[Prediction], top: int) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("picture", "class", "probability", box=None, pad_edge=False)
    for found in predictions:
        if found.error:
            table.add_row(Text(found.name), Text(found.error, style="red"), "")
            continue
        best = sorted(found.probabilities.items(), key=lambda item: -item[1])[:top]
        for row, (label, share) in enumerate(best):
            table.add_row(Text("" if row else found.name), Text(label), f"{share:.1%}")
    print_table(table)


def export(
    run_dir: RunDir,
    output: Annotated[
        Path | None, Option(help="Folder of the versions.  [default: saved_model of the run]")
    ] = None,
    precision: PrecisionOption = "float32",
) -> None:
    """Writes the next version of a SavedModel that serves, and checks it in a fresh process.

    Example: resnet-keras export runs/photos --output models/photos
    """
    model = load_run(run_dir)
    from resnet_keras import export_model
    from resnet_keras.training.runs import MANIFEST, write_manifest

    echo(str(export_model(model, output or run_dir / SAVED_MODEL, precision=precision)))
    if output is None and (run_dir / MANIFEST).exists():
        write_manifest(run_dir)
