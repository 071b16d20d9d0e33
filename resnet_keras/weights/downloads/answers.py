"""What servers and networks answer instead of a file, as sentences for a person."""

from __future__ import annotations

import datetime
import email.utils
import http
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

# Longest pause that a server may ask for, in seconds.
LONGEST_PAUSE = 30.0
_PASSING = (408, 429, 500, 502, 503, 504)
_GATED = (
    "on the Hugging Face hub, accept the licence on the page of the weights and set HF_TOKEN to a "
    "token that may read them"
)
_HINTS = {
    401: _GATED,
    403: _GATED,
    404: "the file was moved or removed",
    410: "the file was removed",
    429: "wait a while, or on the Hugging Face hub set HF_TOKEN",
}


class DownloadError(Exception):
    """Why a file could not be downloaded: a sentence without its full stop.

    Args:
        sentence: What happened, with the address.
        retry: Whether it may be otherwise the next time.
        pause: How long the server asks to wait before that, in seconds.
    """

    def __init__(self, sentence: str, *, retry: bool = False, pause: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry = retry and pause <= LONGEST_PAUSE
        self.pause = pause


class ChangedError(DownloadError):
    """Raised when an address does not have the file that was published or first fetched."""


def refusal(response: requests.Response) -> DownloadError:
    """Returns the error for an answer that is no file."""
    status = response.status_code
    try:
        meaning = f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        meaning = str(status)
    hint = _HINTS.get(status, "the server has a fault" if status >= 500 else "this is no file")
    pause = _retry_after(response.headers.get("Retry-After", ""))
    wait = f", and the server asks to wait {pause:.0f} s" if pause else ""
    sentence = f"{response.url} answered {meaning}: {hint}{wait}"
    if status in (404, 410):
        return ChangedError(sentence)
    return DownloadError(sentence, retry=status in _PASSING, pause=pause)


def failure(error: requests.RequestException, url: str) -> DownloadError:
    """Returns the error for a connection that failed, worth a retry only if it had stood."""
    import requests
    import urllib3

    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return DownloadError(f"{url} could not be reached over the network ({_innermost(error)})")
    hopeless = requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.ConnectTimeout
    broken = requests.ConnectionError, requests.exceptions.ChunkedEncodingError
    retry = isinstance(error, broken) and not isinstance(error, hopeless)
    return DownloadError(f"{url} could not be fetched ({_innermost(error)})", retry=retry)


def _retry_after(value: str) -> float:
    """Returns the seconds of a Retry-After header, which may also be a date."""
    if value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _innermost(error: BaseException) -> str:
    """Returns what the system said, below the wrappers of the libraries."""
    wrapped: BaseException | None = error
    while wrapped is not None:
        error = wrapped
        inside = getattr(error, "reason", None), error.__cause__, *error.args
        wrapped = next((part for part in inside if isinstance(part, BaseException)), None)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
