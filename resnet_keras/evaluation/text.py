"""Names that come from files and folders, made fit to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns the text with what cannot be shown, line breaks included, replaced by U+FFFD.

    Names of files may hold anything: escape sequences that change the terminal, or bytes that
    are no UTF-8, which Python keeps as lone surrogates and no file can be written with.
    """
    if text.isprintable():  # pictures in a page are text of megabytes
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def shortened(text: str, limit: int) -> str:
    """Returns the printable text, its middle left out where it is longer than `limit`."""
    text = printable(text)
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"
