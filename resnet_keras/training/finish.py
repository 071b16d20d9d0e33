"""The end of a run: evaluations, the best model, the report and the manifest."""

from __future__ import annotations

import shutil

from resnet_keras.atomic import atomic_path
from resnet_keras.errors import RunError
from resnet_keras.evaluation import Evaluation, evaluate, write_report
from resnet_keras.layers import record_of
from resnet_keras.training import runs
from resnet_keras.training.run import Run

MODEL_FILE = "model.keras"
METRICS_JSON = "metrics.json"


def finish_run(run: Run) -> tuple[Evaluation | None, Evaluation | None]:
    """Evaluates the model and writes what the run folder promises.

    Returns:
        The evaluations of the validation part and of the test part; None for a part that is
        missing or not wanted.
    """
    found = [
        evaluate(
            run.model, part, flips=run.settings.flips, precision=run.settings.inputs.precision,
            strategy=run.replicas.strategy,
        ) if part else None
        for part in (run.data.val, run.data.test if run.settings.test else None)
    ]  # fmt: skip
    validation, test = found

    def write() -> bytes:
        _write(run, validation, test)
        return b""

    run.replicas.workers.lead(write)
    return validation, test


def _write(run: Run, validation: Evaluation | None, test: Evaluation | None) -> None:
    with atomic_path(run.folder / MODEL_FILE, RunError) as temporary:
        run.model.save(temporary)
    metrics = {
        "validation": validation.to_dict() if validation else None,
        "test": test.to_dict() if test else None,
        "best_epoch": run.progress.best,
        "seconds": sum(float(row["seconds"]) for row in run.progress.history),
    }
    runs.write_json(run.folder / METRICS_JSON, metrics)
    _report(run, test or validation)
    cache = run.settings.inputs.cache
    if not cache.shared:
        shutil.rmtree(cache.folder, ignore_errors=True)
    runs.write_manifest(run.folder)


def _report(run: Run, evaluation: Evaluation | None) -> None:
    record, data = record_of(run.model), run.data
    facts = {
        "Weights": record.source,
        "Licence of the weights": record.licence or "not stated",
        "Network": record.spec.title,
        "Pictures": f"{len(data.train)} for training, {data.recipe.image_size} pixels",
        "Data fingerprint": data.fingerprint,
        "Phases": ", ".join(
            f"{plan.phase.start} {plan.phase.epochs}" for plan in run.settings.plans
        ),
        "Precision": run.settings.inputs.cache.dtype,
        "Seed": str(run.settings.inputs.seed),
    }
    write_report(
        run.folder,
        evaluation=evaluation,
        history=run.progress.history,
        data_report=data.report,
        images=(data.test if run.settings.test else None) or data.val,
        title=run.folder.name,
        facts=facts,
        monitor=run.settings.monitor,
    )
