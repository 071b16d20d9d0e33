"""The model card: what a model is, what it takes and returns, and where its weights come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet_keras.atomic import write_atomically
from resnet_keras.errors import ExportError
from resnet_keras.records import Record

CARD_FILE = "MODEL_CARD.md"
TASK = "image-classification"


def write_model_card(
    folder: str | Path,
    record: Record,
    *,
    evaluation_summary: Mapping[str, Any] | None = None,
    data_fingerprint: str | None = None,
    precision: str | None = None,
) -> Path:
    """Writes `MODEL_CARD.md`: Markdown for people, with a YAML head for model hubs.

    Args:
        folder: Where the card goes; made if missing.
        record: The model's network, recipe, classes, source and licence.
        evaluation_summary: Metrics by name; what is no finite number is left out.
        data_fingerprint: sha256 of the data that the model was trained and measured on.
        precision: What the convolutions of the SavedModel compute in; None if there is none yet.

    Returns:
        The path of the card.

    Raises:
        ExportError: If the card cannot be written.

    Example:
        >>> import tempfile
        >>> from resnet_keras.records import Record
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model_card(folder, Record(), evaluation_summary={"accuracy": 0.9}).name
        'MODEL_CARD.md'
    """
    metrics = _finite(evaluation_summary or {})
    sections = (
        _head(record, metrics, data_fingerprint),
        _what(record),
        _interface(record),
        _arithmetic(precision),
        _usage(record),
        _classes(record),
        _metrics(metrics, data_fingerprint),
        _origin(record),
    )
    text = "\n".join(filter(None, sections))
    return write_atomically(Path(folder) / CARD_FILE, [text.encode()], ExportError)


def _finite(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _title(record: Record) -> str:
    return f"{record.spec.title} ({record.name})"


def _head(record: Record, metrics: Mapping[str, float], fingerprint: str | None) -> str:
    values: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": TASK,
        "license": record.licence.lower() or "unknown",
        "tags": ["resnet", f"resnet{record.spec.depth}", TASK, "tensorflow", "saved-model"],
    }
    if metrics:
        result = {
            "task": {"type": TASK},
            "dataset": {"name": fingerprint or "not stated", "type": "custom"},
            "metrics": [{"type": name, "value": value} for name, value in metrics.items()],
        }
        values["model-index"] = [{"name": _title(record), "results": [result]}]
    head = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n"


def _what(record: Record) -> str:
    return (
        f"# {_title(record)}\n\nA {record.spec.title} that sorts pictures into {_count(record)}, "
        "as a TensorFlow SavedModel.\n"
    )


def _count(record: Record) -> str:
    return f"{len(record.class_names)} classes" if record.class_names else "classes"


def _interface(record: Record) -> str:
    recipe = record.recipe
    size, channels = recipe.image_size, len(recipe.mean)
    lines = [
        "## What it takes and returns\n",
        "| Signature | Input | Type and shape | What it is |",
        "|---|---|---|---|",
        f"| `serve` (the default) | `image` | uint8 `(n, {size}, {size}, {channels})` | "
        f"{_colours(channels)} in [0, 255], already {size} x {size} pixels |",
    ]
    if channels == 3:
        lines.append(
            "| `serve_bytes` | `image_bytes` | string `(n,)` | JPEG, PNG, GIF (first frame), "
            f"BMP or WebP files of any size: the short side becomes {recipe.resize_to} pixels "
            f"({recipe.interpolation}, antialiased), the central {size} x {size} are used |"
        )
    lines += [
        "",
        "All signatures return `probabilities` (float32 `(n, classes)`), `label` (string `(n,)`) "
        "and `index` (int64 `(n,)`), the latter two of the largest probability; n may be 0. "
        "Preprocessing is part of the model.\n",
    ]
    return "\n".join(lines)


def _arithmetic(precision: str | None) -> str:
    if precision is None:
        return ""
    text = (
        f"## Precision\n\nThe convolutions compute in {precision}, with batch norm folded into "
        "them; probabilities are float32."
    )
    if precision != "float32":
        text += f" A CPU without units for {precision} runs them slowly."
    return f"{text}\n"


def _colours(channels: int) -> str:
    return "RGB pixels" if channels == 3 else f"pixels of {channels} channel(s)"


def _usage(record: Record) -> str:
    size, channels = record.recipe.image_size, len(record.recipe.mean)
    if channels == 3:
        call = 'serve = loaded.signatures["serve_bytes"]\n'
        call += 'answer = serve(image_bytes=tf.constant([open("picture.jpg", "rb").read()]))\n'
    else:
        call = 'serve = loaded.signatures["serve"]\n'
        call += f"answer = serve(image=tf.zeros((1, {size}, {size}, {channels}), tf.uint8))\n"
    return (
        "## How to call it\n\n"
        "In Python; TensorFlow is all that is needed:\n\n"
        "```python\nimport tensorflow as tf\n\n"
        'loaded = tf.saved_model.load("export/1")  # keep it: its signatures live as long\n'
        f'{call}print(answer["label"].numpy()[0].decode(), answer["probabilities"].numpy()[0])\n'
        "```\n\n" + _rest(channels)
    )


def _rest(channels: int) -> str:
    url = "http://localhost:8501/v1/models/resnet:predict"
    calls = ['{"signature_name": "serve", "instances": [{"image": [[[0, 0, 0], ...], ...]}]}']
    if channels == 3:
        calls.append(
            '{"signature_name": "serve_bytes", "instances": '
            '[{"image_bytes": {"b64": "\'$(base64 -w0 picture.jpg)\'"}}]}'
        )
    lines = "\n".join(f"curl -d '{call}' {url}" for call in calls)
    return f"Over the REST interface of TensorFlow Serving:\n\n```sh\n{lines}\n```\n"


def _classes(record: Record) -> str:
    if not record.class_names:
        return ""
    lines = [f"{index}. {_escaped(name)}" for index, name in enumerate(record.class_names)]
    return "## Classes\n\nBy `index`:\n\n" + "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(f"\\{each}" if each in r"\`*_{}[]<>#|" else each for each in text)


def _metrics(metrics: Mapping[str, float], fingerprint: str | None) -> str:
    lines = [f"| {_escaped(name)} | {value:.4g} |" for name, value in metrics.items()]
    table = "| Metric | Value |\n|---|---|\n" + "\n".join(lines) + "\n" if lines else ""
    data = f"\nData fingerprint (sha256): `{fingerprint}`\n" if fingerprint else ""
    return f"## Results\n\n{table}{data}" if table or data else ""


def _origin(record: Record) -> str:
    return (
        "## Where the weights come from\n\n"
        f"{_escaped(record.source)}. Licence of these weights: {record.licence or 'not stated'}.\n"
    )
