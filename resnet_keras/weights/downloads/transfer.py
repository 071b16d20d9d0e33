"""One download over HTTP: resumed, tried again, and stopped where it leads astray."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.answers import ChangedError, DownloadError, failure, refusal
from resnet_keras.weights.downloads.cache import strange_kind
from resnet_keras.weights.downloads.origin import Origin, is_allowed
from resnet_keras.weights.downloads.progress import ProgressBar
from resnet_keras.weights.downloads.settings import CACHE_VARIABLE, timeouts
from resnet_keras.weights.entries import PublishedFile

if TYPE_CHECKING:
    import requests

# The largest published ResNets have 4 GB at most.
MAX_BYTES = 4 * 2**30
# Before the first, second and third retry, in seconds.
_PAUSES = (0.5, 1.0, 2.0)
# A connection that brought this much was worth it: the retries are counted anew.
_WORTHWHILE = 2**20
_CHUNK = 2**16
_logger = logging.getLogger("resnet_keras")


class Download:
    """The way of one file into an open file, over as many connections as it takes.

    pooch makes the connections and writes what they bring into this object, which checks each
    answer and each piece before it lets them through.

    Args:
        origin: Where to download from.
        known: What is known about the file; `self.known` has later also what the hub said.
        path: The file that is written.
        opened: The same, open for writing.
    """

    def __init__(
        self, origin: Origin, known: PublishedFile, *, path: Path, opened: BinaryIO
    ) -> None:
        self.known = known
        self._origin = origin
        self._path = path
        self._opened = opened
        self._done = 0
        self._total: int | None = None
        # The entity tag or date by which the server knows whether it still has the same file.
        self._validator = ""
        self._response: requests.Response | None = None
        self._bar = ProgressBar(known.name)

    def run(self) -> None:
        """Downloads the file.

        Raises:
            DownloadError: If that is not possible.
            WeightsError: If the disk has not enough space.
            OSError: If the file cannot be written.
        """
        retries, mark = 0, 0
        while True:
            try:
                return self._attempt()
            except DownloadError as error:
                if self._done >= mark + _WORTHWHILE:
                    retries, mark = 0, self._done
                if not error.retry or retries == len(_PAUSES):
                    raise
                pause = max(_PAUSES[retries], error.pause)
                _logger.info("%s; tried again in %g s.", error, pause)
                time.sleep(pause)
                retries += 1
            finally:
                self._bar.close()

    def _attempt(self) -> None:
        import pooch
        import requests

        if not is_allowed(self._origin.url):
            raise DownloadError(f"{self._origin.url} is not fetched: it is not https://")
        get = pooch.HTTPDownloader(
            chunk_size=_CHUNK,
            headers=self._headers(),
            hooks={"response": self._receive},
            auth=self._origin.authorize,
            timeout=timeouts(),
        )
        try:
            get(self._origin.url, self, None)
        except requests.RequestException as error:
            raise failure(error, self._origin.url) from error
        finally:
            if self._response is not None:
                self._response.close()
        if self._done < self.known.size:
            came = f"{self._done} of {self.known.size} bytes"
            raise DownloadError(f"{self._origin.url} ended after {came}", retry=True)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self._done and self._validator:
            headers |= {"Range": f"bytes={self._done}-", "If-Range": self._validator}
        elif self._done and (self.known.sha256 or self.known.md5):
            headers["Range"] = f"bytes={self._done}-"
        return headers

    def _receive(self, response: requests.Response, **_: Any) -> None:
        """Looks at each answer, also at those that only lead elsewhere, before it is followed."""
        self._response = response
        target = response.headers.get("Location", "")
        if response.is_redirect and not is_allowed(target, base=response.url):
            raise DownloadError(
                f"{response.url} leads to {target}, which is not followed: it is not https://"
            )
        self._origin.note(response)
        self._compare_promise()
        if response.status_code == 416:
            self._restart()
            raise DownloadError(f"{response.url} cannot be resumed", retry=True)
        if response.status_code not in (200, 206) and not response.is_redirect:
            raise refusal(response)
        if not response.is_redirect:
            self._begin(response)

    def _compare_promise(self) -> None:
        """Takes over what the hub says about the file, unless it is another one now."""
        told, known = self._origin, self.known
        if told.sha256 and not told.sha256.startswith(known.sha256.lower()):
            raise ChangedError(
                f"{told.url} is another file now: its sha256 is {told.sha256} instead of "
                f"{known.sha256}, as published or as first fetched"
            )
        self.known = dataclasses.replace(
            known, sha256=told.sha256 or known.sha256, size=known.size or told.size
        )

    def _begin(self, response: requests.Response) -> None:
        """Decides from the headers where the bytes that follow belong, and how many may come."""
        headers = response.headers
        place = headers.get("Content-Range", "")
        if response.status_code == 200 or not place.startswith(f"bytes {self._done}-"):
            self._restart()
        if response.status_code == 206 and not place.startswith(f"bytes {self._done}-"):
            raise DownloadError(f"{response.url} resumed at another place", retry=True)
        length = headers.get("Content-Length", "")
        encoded = headers.get("Content-Encoding", "identity") != "identity"
        if not length.isdigit() or encoded:
            headers.pop("Content-Length", None)
            self._total = self.known.size or None
        else:
            self._total = self._done + int(length)
            self._check_total(response.url)
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")

    def _check_total(self, url: str) -> None:
        total = self._total or 0
        if self.known.size and total != self.known.size:
            raise ChangedError(f"{url} has {total} bytes instead of {self.known.size}")
        if total > MAX_BYTES:
            raise DownloadError(f"{url} has {total} bytes, and no ResNet more than {MAX_BYTES}")
        free = shutil.disk_usage(self._path.parent).free
        if total - self._done > free:
            raise WeightsError(
                f"{self._path.parent} has {free / 1e6:.0f} MB of free space and {url} needs "
                f"{total / 1e6:.0f} MB; free space or set {CACHE_VARIABLE} to another folder."
            )

    def _restart(self) -> None:
        self._done = 0
        self._validator = ""
        self._opened.seek(0)
        self._opened.truncate()

    def write(self, piece: bytes) -> None:
        """Takes the next bytes of the file."""
        url = self._origin.url
        if not self._done and (kind := strange_kind(piece[:64])):
            sent = self._response.headers.get("Content-Type", "none") if self._response else "none"
            raise DownloadError(f"{url} gave no weights but {kind} (Content-Type: {sent})")
        limit = self.known.size or MAX_BYTES
        if self._done + len(piece) > limit:
            raise DownloadError(f"{url} sends more than {limit} bytes")
        self._opened.write(piece)
        self._done += len(piece)
        self._bar.update(self._done, self._total)

    def flush(self) -> None:
        """Lets the file collect what it is given."""
