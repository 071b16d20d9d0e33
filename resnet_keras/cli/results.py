"""What a finished run shows and leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer import echo

if TYPE_CHECKING:
    from resnet_keras.data import ImageData
    from resnet_keras.training import FineTuneResult

SAVED_MODEL = "saved_model"


def finish(result: FineTuneResult, data: ImageData, *, export: bool) -> Path | None:
    """Prints the evaluations and writes model card, SavedModel and manifest.

    Returns:
        The folder of the SavedModel, if one was asked for.
    """
    from resnet_keras.export import export_model, write_model_card
    from resnet_keras.layers import record_of
    from resnet_keras.training.runs import write_manifest

    for name, evaluation in (("validation", result.validation), ("test", result.test)):
        if evaluation is not None:
            echo(f"\n{name}\n{evaluation}")
    final = result.test or result.validation
    summary = final.summary() if final else None
    write_model_card(
        result.run_dir,
        record_of(result.model),
        evaluation_summary=summary,
        data_fingerprint=data.fingerprint,
    )
    folder = export_model(result.model, result.run_dir / SAVED_MODEL) if export else None
    write_manifest(result.run_dir)
    echo(f"\nreport       {result.run_dir / 'report.html'}")
    echo(f"model        {result.run_dir / 'model.keras'}")
    if folder:
        echo(f"SavedModel   {folder}")
    return folder
