"""Options of a command from a YAML file: what is given on the command line wins."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer import BadParameter, Context, Option

# Options whose text is a list, which YAML writes as one.
LISTS = ("head",)
# They are about one call, and `force` deletes what is there.
NOT_IN_FILES = ("config", "resume", "force")
_RULES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list of integers",
}


def _read(context: Context, path: Path | None) -> Path | None:
    """Makes what a file says the defaults of the command."""
    if path is not None:
        values = _values(path)
        context.default_map = {
            name: _checked(path, context, (name, value))
            for name, value in values.items()
            if value is not None
        }
    return path


ConfigOption = Annotated[
    Path | None,
    Option(
        "--config",
        callback=_read,
        is_eager=True,
        metavar="FILE",
        help="YAML file of options, such as epochs: 10; the command line wins.",
    ),
]


def _values(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ValueError(f"The file {path} of --config cannot be read: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"The file {path} of --config must hold option names and their values, such as "
            f"epochs: 10. Received: {type(values).__name__}"
        )
    return values


def _checked(path: Path, context: Context, item: tuple[Any, Any]) -> Any:
    """Returns a value as the command line would give it."""
    name, value = item
    params = {param.name: param for param in context.command.params}
    if name not in params or name in NOT_IN_FILES:
        raise ValueError(
            f"The file {path} of --config must name options. Received: {name}{_hint(name, params)}"
        )
    callback = inspect.unwrap(context.command.callback)  # type: ignore[arg-type]
    kind = _kind(name, get_type_hints(callback)[name])
    if not _fits(value, kind):
        raise ValueError(
            f"The file {path} of --config must give {name} {_rule(kind)}. Received: {value!r}"
        )
    text = ",".join(map(str, value)) if kind is list else value
    try:
        params[name].process_value(context, text)
    except BadParameter as error:
        raise ValueError(
            f"The file {path} of --config gives {name} a wrong value, {value!r}: {error.message}"
        ) from None
    return text


def _hint(name: Any, params: Iterable[str | None]) -> str:
    if name in NOT_IN_FILES:
        return ", which is for the command line alone"
    near = difflib.get_close_matches(str(name), [each for each in params if each], 1)
    return f"; did you mean {near[0]}?" if near else ""


def _kind(name: str, hint: Any) -> Any:
    """Returns what the values of an option are: a type, or a tuple of choices."""
    if name in LISTS:
        return list
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    return get_args(hint) if get_origin(hint) is Literal else hint


def _rule(kind: Any) -> str:
    if isinstance(kind, tuple):
        return f"one of {', '.join(kind)}"
    return _RULES.get(kind, "a text")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    if kind is list:
        return isinstance(value, list) and all(_is_number(each, int) for each in value)
    if kind in (int, float):
        return _is_number(value, kind)
    return isinstance(value, bool if kind is bool else str)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, str) and kind is float:
        # YAML takes 1e-4 for a text, as it has no dot.
        with contextlib.suppress(ValueError):
            return math.isfinite(float(value))
    return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
