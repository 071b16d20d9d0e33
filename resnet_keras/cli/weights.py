"""`resnet-keras weights`: the weights that are known by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option, echo

from resnet_keras.cli.common import Json, print_json
from resnet_keras.weights.entries import Family

if TYPE_CHECKING:
    from resnet_keras.weights.entries import PublishedFile, RegistryEntry

weights_app = typer.Typer(help="Weights that are known by name.", no_args_is_help=True)

_LICENCE_NOTES = {
    "CC-BY-NC-4.0": "not for commercial use",
    "not stated": "their publisher names no licence: ask before you use them commercially",
}


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of the list: `top1` is the best published accuracy, `pixels` where it was reached."""

    name: str
    family: str
    network: str
    depth: int
    pixels: int
    top1: float | None
    top5: float | None
    parameters: int
    licence: str


@weights_app.command("list")
def list_command(
    depth: Annotated[int | None, Option(help="Only networks of this depth.")] = None,
    family: Annotated[
        Family | None, Option(case_sensitive=False, help="Only weights of this publisher.")
    ] = None,
    json: Json = False,
) -> None:
    """Lists the weights that are known by name, the most accurate first.

    Top-1 is the best published accuracy on ImageNet-1k, in percent, at so many pixels.

    Example: resnet-keras weights list --depth 50 --family timm
    """
    from resnet_keras.weights.registry import REGISTRY

    rows = sorted(
        (
            _row(entry)
            for entry in REGISTRY.values()
            if depth in (None, entry.record.spec.depth) and family in (None, entry.family)
        ),
        key=lambda row: (-(row.top1 or 0), row.name),
    )
    if json:
        print_json([dataclasses.asdict(row) for row in rows])
    else:
        _show_table(rows)


@weights_app.command("info")
def info(
    name: Annotated[str, Argument(help="A name of `weights list`.", show_default=False)],
    json: Json = False,
) -> None:
    """Shows what is known about weights: network, recipe, scores, files and licence.

    Example: resnet-keras weights info resnet50.a1_in1k
    """
    from resnet_keras.weights.registry import weights_info

    entry = weights_info(name)
    if json:
        print_json(entry.to_dict())
        return
    for key, value in _facts(entry):
        echo(f"{key:16}{value}")


def _row(entry: RegistryEntry) -> _Row:
    best = max(entry.scores, key=lambda score: score.top1, default=None)
    return _Row(
        name=entry.name,
        family=entry.family,
        network=entry.record.spec.title,
        depth=entry.record.spec.depth,
        pixels=best.image_size if best else entry.record.recipe.image_size,
        top1=best.top1 if best else None,
        top5=best.top5 if best else None,
        parameters=entry.parameters,
        licence=entry.record.licence,
    )


def _show_table(rows: list[_Row]) -> None:
    if not rows:
        echo("No weights are known of that depth and family.")
        return
    name, network = (
        max(len(getattr(row, column)) for row in rows) + 2 for column in ("name", "network")
    )
    echo(f"{'name':{name}}{'network':{network}}pixels   top-1   parameters  licence")
    for row in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.2f}"
        echo(
            f"{row.name:{name}}{row.network:{network}}{row.pixels:6}{top1:>8}"
            f"{row.parameters:>13,}  {row.licence}"
        )
    best = rows[0]
    praise = f"; most accurate: {best.name}, {best.top1:.2f} %" if best.top1 else ""
    echo(f"\n{len(rows)} sets of weights{praise}")


def _facts(entry: RegistryEntry) -> Iterator[tuple[str, Any]]:
    record = entry.record
    yield "name", entry.name
    yield "family", entry.family
    yield "source", record.source
    yield "licence", _licence(record.licence)
    yield "network", record.spec.title
    yield from record.spec.to_dict().items()
    yield "resize_to", f"{record.recipe.resize_to} pixels on the short side, antialiased"
    yield from record.recipe.to_dict().items()
    yield "channel order", "BGR, turned round in the first kernel" if entry.bgr else "RGB"
    yield "trained with", "antialiased pictures" if entry.antialias else "no antialiasing"
    yield "parameters", f"{entry.parameters:,}"
    yield "classes", _classes(record.class_names, entry.num_classes)
    for score in entry.scores:
        top5 = "" if score.top5 is None else f", top-5 {score.top5:.3f} %"
        yield "score", f"top-1 {score.top1:.3f} %{top5} at {score.image_size} pixels"
    for file in entry.files:
        yield "file", f"{file.url} ({_digest(file)})"


def _digest(file: PublishedFile) -> str:
    if file.sha256:
        return f"sha256 {'' if len(file.sha256) == 64 else 'begins '}{file.sha256}"
    return f"md5 {file.md5}" if file.md5 else "no digest known"


def _licence(licence: str) -> str:
    note = _LICENCE_NOTES.get(licence)
    return f"{licence} ({note})" if note else licence


def _classes(names: tuple[str, ...], count: int | None) -> str:
    if count is None:
        return "none: the weights have no head"
    if not names:
        return f"{count}, without names"
    shown = ", ".join(names[:3])
    return f"{count}: {shown}, ..." if count > 3 else f"{count}: {shown}"
