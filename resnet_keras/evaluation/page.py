"""HTML that cannot be injected: text is escaped unless it came from `tag`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from importlib import resources

from PIL import Image

from resnet_keras.evaluation.text import printable

# Nothing but the page itself: no script, no font, no address.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = ("img", "source", "meta")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Returns text of any origin as HTML."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def tag(name: str, /, *children: str, **attributes: str) -> Html:
    """Returns an element; children and attributes that are plain text are escaped.

    Args:
        name: Name of the element.
        *children: What it holds.
        **attributes: Its attributes; an underscore at the end of a name is dropped, so that
            `class_` can be said.
    """
    parts = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{parts}>")
    return Html(f"<{name}{parts}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Html:
    """Returns the children one after the other."""
    return Html("".join(escaped(child) for child in children))


def data_uri(content: bytes, kind: str) -> str:
    """Returns a picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def plot_image(light: bytes, dark: bytes, *, alternative: str, class_: str = "") -> Html:
    """Returns a figure that follows the reader's choice of light or dark."""
    dark_uri, light_uri = data_uri(dark, "png"), data_uri(light, "png")
    # Half its pixels: a figure that scrolls is sharp on dense screens.
    width = str(Image.open(io.BytesIO(light)).width // 2)
    picture = tag(
        "picture",
        tag("source", srcset=dark_uri, media="(prefers-color-scheme: dark)"),
        tag("img", src=light_uri, alt=alternative, width=width),
    )
    return tag("figure", picture, class_=f"plot {class_}".strip())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = "") -> Html:
    """Returns a table that scrolls sideways where it has no room; the first column is text."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:]))
        for row in rows
    ]
    headings = tag("tr", *(tag("th", name, scope="col") for name in head))
    content = tag("table", tag("thead", headings), tag("tbody", *body), class_=class_)
    return tag("div", content, class_="scroll")


def _cell(content: str) -> Html:
    return tag("td", content)


def section(title: str, *children: str) -> Html:
    """Returns a part of the page with its heading; nothing where there are no children."""
    shown = [child for child in children if child]
    return tag("section", tag("h2", title), *shown) if shown else Html("")


def page(title: str, *children: str) -> str:
    """Returns a whole document that needs nothing outside itself."""
    style = Html(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", tag("main", *children))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
