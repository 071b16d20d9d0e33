"""`resnet-keras weights fetch` and `weights verify`: the published files on this machine."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Exit, Option, echo

from resnet_keras.cli.common import Json, print_json

WEIGHTS_ERROR = 4


def fetch(
    name: Annotated[str, Argument(help="A name of `weights list`.", show_default=False)],
    offline: Annotated[bool, Option("--offline", help="Leave the network alone.")] = False,
    json: Json = False,
) -> None:
    """Fetches the file of weights, verifies it and prints its path.

    Example: resnet-keras weights fetch resnet50.a1_in1k
    """
    from resnet_keras.weights import weights_info
    from resnet_keras.weights.fetch import fetch_entry

    file, path = fetch_entry(weights_info(name), offline=offline or None)
    if json:
        print_json({"name": name, "url": file.url, "path": str(path)})
        return
    echo(f"{name} is {file.url}", err=True)
    echo(path)


def verify(
    names: Annotated[
        list[str] | None,
        Argument(help="Names of `weights list`; none for all files that are on this machine."),
    ] = None,
    json: Json = False,
) -> None:
    """Verifies the fetched files of weights; leaves with 4 if one of them was altered.

    Example: resnet-keras weights verify resnet50.a1_in1k
    """
    from resnet_keras.weights import list_weights, weights_info
    from resnet_keras.weights.downloads.local import look_up

    entries = [weights_info(name) for name in names or list_weights()]
    found = [(entry.name, file, look_up(file)) for entry in entries for file in entry.files]
    rows = [
        {"name": name, "file": str(local.path), "state": local.state, "fault": local.fault}
        for name, file, local in found
        if names or local.state != "missing"
    ]
    if json:
        print_json(rows)
    else:
        _print_table(rows)
    if any(row["state"] == "altered" for row in rows):
        raise Exit(WEIGHTS_ERROR)


def _print_table(rows: list[dict[str, str]]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        fault = f": {row['fault']}" if row["fault"] else ""
        echo(f"{row['name']:{width}}  {row['state']:9}  {row['file']}{fault}")
    if not rows:
        echo("None of the known files is on this machine.")
