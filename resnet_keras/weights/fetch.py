"""`fetch`: published files of weights as verified local copies, wherever they are published."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from pathlib import Path

from resnet_keras.errors import WeightsError
from resnet_keras.weights.downloads.cache import Receipt, UnwritableError, cache_path, make_folder
from resnet_keras.weights.downloads.local import KAGGLE, PACKAGE, LocalFile, look_up
from resnet_keras.weights.downloads.origin import origin_of
from resnet_keras.weights.downloads.settings import cache_folder, is_offline
from resnet_keras.weights.downloads.store import store
from resnet_keras.weights.entries import PublishedFile, RegistryEntry

__all__ = ["cache_folder", "fetch", "fetch_entry"]

_logger = logging.getLogger("resnet_keras")


def fetch(file: PublishedFile, *, offline: bool | None = None) -> Path:
    """Returns a verified local copy of a published file, downloading it if there is none.

    A file comes into the cache complete and verified, or not at all. All of it is verified again
    whenever it is used, also if somebody put it there by hand.

    Args:
        file: The file.
        offline: Whether to leave the network alone; None for what the environment variable
            RESNET_KERAS_OFFLINE says.

    Returns:
        Its path: in the cache of this package or of the Hugging Face hub, or in the Python
        package that brings it.

    Raises:
        WeightsError: If the file cannot be had, or is not the one that was published.

    Example:
        >>> file = PublishedFile("hf://nobody/nothing/model.safetensors", "torch")
        >>> try:
        ...     fetch(file, offline=True)
        ... except WeightsError as error:
        ...     print("by hand to" in str(error))
        True
    """
    local = look_up(file)
    if local.is_usable:
        return _local_copy(file, local)
    if file.url.startswith(PACKAGE):
        raise WeightsError(_without_package(file, local))
    if file.url.startswith(KAGGLE) or is_offline(offline):
        raise WeightsError(_without_network(file, local))
    return store(file, local.path)


def fetch_entry(entry: RegistryEntry, *, offline: bool | None = None) -> tuple[PublishedFile, Path]:
    """Returns a file of an entry and its verified local copy.

    A copy that is there already comes before a download; otherwise the files are tried in their
    order. PyTorch's own files are left out where torch is not installed to read them.

    Args:
        entry: Weights that are known by name.
        offline: As for `fetch`.

    Returns:
        The file that was taken, and its path.

    Raises:
        WeightsError: If none of the files can be had; it says of each why.
    """
    files = _readable_files(entry)
    for file in files:
        local = look_up(file)
        if local.is_usable:
            _report(entry, local.path)
            return file, _local_copy(file, local)
    reasons = []
    for file in files:
        try:
            path = fetch(file, offline=offline)
        except WeightsError as error:
            _logger.info("The weights %r are looked for elsewhere: %s", entry.name, error)
            reasons.append(error)
        else:
            _report(entry, file.url)
            return file, path
    raise _joined(entry, reasons)


def _report(entry: RegistryEntry, place: str | Path) -> None:
    # Where there is but one file, nobody has to be told which it was.
    level = logging.WARNING if len(entry.files) > 1 else logging.INFO
    _logger.log(level, "The weights %r are taken from %s.", entry.name, place)


def _local_copy(file: PublishedFile, local: LocalFile) -> Path:
    """Returns the path of a usable file; what it is now is compared from now on."""
    if local.state == "unchecked" and local.receipt:
        _logger.warning(
            "%s was put there by hand and no digest of it is known; from now on its sha256 has to "
            "stay %s.",
            local.path,
            local.receipt.sha256,
        )
    if local.receipt and Receipt.of(cache_path(file)) is None:
        # A cache that cannot be written is no reason to refuse the file.
        with contextlib.suppress(OSError, UnwritableError):
            make_folder(cache_path(file))
            local.receipt.write(cache_path(file))
    return local.path


def _without_package(file: PublishedFile, local: LocalFile) -> str:
    package = file.url.removeprefix(PACKAGE).partition("/")[0].replace("_", "-")
    if local.fault:
        return (
            f"{local.path} is not the file that the registry knows ({local.fault}); install the "
            f"package again: pip install --force-reinstall {package}"
        )
    return (
        f"{file.url} comes with the package {package}, which is not installed: "
        'pip install "resnet_keras[demo]"'
    )


def _without_network(file: PublishedFile, local: LocalFile) -> str:
    start = f"{file.url} is not in the cache"
    if local.fault:
        start = f"{local.path} is not the file that was published ({local.fault})"
    if file.url.startswith(KAGGLE):
        handle = file.url.removeprefix(KAGGLE)
        return (
            f"{start}; download it by hand, from its page or with "
            f'kagglehub.model_download("{handle}"), and put its model.weights.h5 at {local.path}.'
        )
    return (
        f"{start}, and the network is not to be used; download {origin_of(file, local.path).url} "
        f"by hand to {local.path}."
    )


def _readable_files(entry: RegistryEntry) -> list[PublishedFile]:
    needing = [file for file in entry.files if Path(file.name).suffix in (".pth", ".pt")]
    if not needing or importlib.util.find_spec("torch") is not None:
        return list(entry.files)
    for file in needing:
        _logger.info("%s is left out: torch, which reads it, is not installed.", file.url)
    if len(needing) < len(entry.files):
        return [file for file in entry.files if file not in needing]
    raise WeightsError(
        f"The weights {entry.name!r} are published as {needing[0].name}, which torch has to read: "
        'pip install "resnet_keras[torch]"'
    )


def _joined(entry: RegistryEntry, reasons: list[WeightsError]) -> WeightsError:
    if len(reasons) == 1:
        return reasons[0]
    listed = "; ".join(f"({at}) {str(error).rstrip('.')}" for at, error in enumerate(reasons, 1))
    return WeightsError(f"The weights {entry.name!r} are not to be had: {listed}.")
