"""The trials of a search for TensorBoard: what its HParams page shows as a table and as plots."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2, summary

from resnet_keras.errors import RunError
from resnet_keras.tuning.trials import TrialResult

HPARAMS = "hparams"
STATUSES = {"COMPLETED": api_pb2.STATUS_SUCCESS, "FAILED": api_pb2.STATUS_FAILURE}


def write_hparams(folder: Path, results: Sequence[TrialResult]) -> Path:
    """Writes one TensorBoard run a trial, in place of those of an earlier call.

    Args:
        folder: The folder of the search.
        results: All trials.

    Returns:
        The folder to start TensorBoard with.

    Raises:
        RunError: If the files cannot be written.
    """
    logs = Path(folder) / HPARAMS
    try:
        if logs.exists():
            shutil.rmtree(logs)
        for result in results:
            _write(logs / f"{result.tier}-{result.name}", result)
    except (OSError, tf.errors.OpError) as error:
        raise RunError(f"The folder {logs} cannot be written: {error}.") from error
    return logs


def _write(folder: Path, result: TrialResult) -> None:
    values = {"tier": result.tier, **result.values}
    numbers = {
        **{f"val_{name}": value for name, value in result.metrics.items()},
        "score": result.score,
        "mean": result.merit,
        "standard_error": result.standard_error,
        "latency_ms": result.latency_ms,
        "params": result.params,
        "seconds": result.seconds,
    }
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        hparams_api.hparams(values, trial_id=folder.name)
        for name, number in numbers.items():
            if number is not None:
                tf.summary.scalar(name, number)
        if result.reason:
            tf.summary.text("reason", result.reason)
        end = summary.session_end_pb(STATUSES[result.status])
        tf.summary.experimental.write_raw_pb(end.SerializeToString(), step=0)
    writer.close()
