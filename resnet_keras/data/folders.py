"""Folders of pictures: class trees, with or without train, val and test parts."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_keras.data.formats import is_picture, picture_extensions
from resnet_keras.data.listing import Listing
from resnet_keras.errors import DataError

PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
SYSTEM_FOLDERS = {"__macosx", "__pycache__", "@eadir"}
LAYOUT = (
    "expected one sub-folder a class, as photos/cat/1.jpg and photos/dog/2.jpg, "
    "or such trees in train/, val/ and test/"
)


class Scan:
    """Walks folders for pictures and keeps count of everything else.

    Hidden files, what desktops leave behind and linked folders are passed over.

    Args:
        root: Folder that names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: Counter[str] = Counter()
        self.notes: list[str] = []

    def folders(self, folder: Path) -> list[Path]:
        """Returns the sub-folders of a folder, sorted; links to folders are noted instead."""
        found = []
        for path in _listed(folder):
            if not path.is_dir() or _is_hidden(path):
                continue
            if path.is_symlink():
                self.notes.append(f"The linked folder {self.name(path)} was not followed.")
            else:
                found.append(path)
        return found

    def files(self, folder: Path) -> list[Path]:
        """Returns the pictures directly in a folder, sorted, and counts the other files."""
        found = []
        for path in _listed(folder):
            if path.is_dir() or _is_hidden(path):
                continue
            if _may_be_picture(path):
                found.append(path)
            else:
                self.ignored[path.suffix.lower() or "(none)"] += 1
        return found

    def tree(self, folder: Path) -> Iterator[Path]:
        """Yields the pictures in a folder and everywhere below it."""
        yield from self.files(folder)
        for below in self.folders(folder):
            yield from self.tree(below)

    def name(self, path: Path) -> str:
        """Returns the path below the root in a form that can be printed and saved."""
        return os.fsencode(path.relative_to(self.root).as_posix()).decode(
            "utf-8", "backslashreplace"
        )


def read_folder(root: Path) -> Listing:
    """Lists the pictures of a class tree, or of the class trees of its parts.

    Args:
        root: Folder that holds one folder a class, or train/ and val/ and/or test/ that do.

    Raises:
        DataError: If there is no such folder, or it does not hold such a tree.
    """
    _check_root(root)
    scan = Scan(root)
    trees = {part: _class_tree(scan, folder) for part, folder in _parts(scan, root)}
    if not any(files for tree in trees.values() for files in tree.values()):
        raise DataError(_no_classes(scan))
    class_names = _class_names(trees, root)
    found = [
        (path, part, class_names.index(name))
        for part, tree in trees.items()
        for name, files in tree.items()
        for path in files
    ]
    paths, parts, labels = zip(*found, strict=True)
    return Listing(
        source=str(root),
        names=tuple(scan.name(path) for path in paths),
        labels=np.array(labels, np.int32),
        parts=np.array(parts),
        class_names=class_names,
        fetch=lambda index: paths[index],
        ignored=dict(sorted(scan.ignored.items())),
        notes=tuple(dict.fromkeys(scan.notes)),
    )


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """Finds the pictures that files, folders and patterns name.

    Args:
        paths: Files, which are taken as they are; folders, which are searched to the bottom;
            patterns such as "photos/**/*.jpg".

    Returns:
        The files, sorted, each once.

    Raises:
        DataError: If one of the paths names no picture.

    Example:
        >>> from resnet_keras.data import list_pictures
        >>> list_pictures([])
        []
    """
    return sorted({path for given in paths for path in _named(given)})


def _named(given: str | Path) -> Sequence[Path]:
    path = Path(given)
    if path.is_dir():
        found = list(Scan(path).tree(path))
    elif path.exists():
        found = [path]
    else:
        matches = map(Path, glob.glob(os.fspath(given), recursive=True))
        found = [match for match in matches if match.is_file() and _may_be_picture(match)]
    if not found:
        what = (
            "holds no pictures" if path.exists() else "names no file, folder or pattern that exists"
        )
        raise DataError(f"{given} {what}.")
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}).") from error


def _is_hidden(path: Path) -> bool:
    name = path.name.lower()
    return name.startswith(".") or name in SYSTEM_FILES or name in SYSTEM_FOLDERS


def _may_be_picture(path: Path) -> bool:
    """Whether a file is to be decoded: a picture by its extension, or else by its content."""
    if path.exists() and not path.is_file():
        return False  # a pipe or device, which would block
    if path.suffix.lower() in picture_extensions():
        return True
    try:
        with path.open("rb") as file:
            return is_picture(file)
    except OSError:
        return False


def _check_root(root: Path) -> None:
    if not root.exists():
        raise DataError(f"The folder {root} does not exist; {LAYOUT}.")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder; {LAYOUT}.")


def _parts(scan: Scan, root: Path) -> list[tuple[str, Path]]:
    """Returns the parts of a folder: ("train", root) for a single class tree."""
    folders = scan.folders(root)
    named = {path: PART_NAMES[path.name.lower()] for path in folders if _is_part(path)}
    trees = {part for path, part in named.items() if scan.folders(path)}
    # A class may be called "train": parts come at least in twos, or alone.
    if "train" not in trees:
        if trees and len(named) == len(folders):
            raise DataError(f"{root} has {_list(named)} but no class folders in train/; {LAYOUT}.")
        return [("train", root)]
    if len(folders) > 1 and len(named) == 1:
        return [("train", root)]
    if len(set(named.values())) < len(named):
        raise DataError(f"{root} has two folders for the same part among {_list(named)}; keep one.")
    others = [path for path in folders if path not in named]
    if others:
        scan.notes.append(f"Folders that are no part were left out: {_list(others)}.")
    return [(part, path) for path, part in named.items()]


def _is_part(folder: Path) -> bool:
    return folder.name.lower() in PART_NAMES


def _list(folders: Iterable[Path]) -> str:
    return ", ".join(f"{folder.name}/" for folder in folders)


def _class_tree(scan: Scan, folder: Path) -> dict[str, list[Path]]:
    """Returns the pictures of each class folder."""
    loose = len(scan.files(folder))
    if loose:
        where = "" if folder == scan.root else f" of {scan.name(folder)}"
        scan.notes.append(f"{loose} pictures{where} lie in no class folder and were left out.")
    tree = {path.name: list(scan.tree(path)) for path in scan.folders(folder)}
    for name, files in tree.items():
        nested = sum(path.parent != folder / name for path in files)
        if nested:
            scan.notes.append(
                f"{nested} pictures of {scan.name(folder / name)} lie in deeper folders and count "
                f"as {name!r}."
            )
    return tree


def _no_classes(scan: Scan) -> str:
    loose = len(scan.files(scan.root))
    what = f"{loose} pictures, but none in a class folder" if loose else "no pictures"
    return f"The folder {scan.root} holds {what}; {LAYOUT}."


def _class_names(trees: dict[str, dict[str, list[Path]]], root: Path) -> tuple[str, ...]:
    """Returns the classes of the training part, sorted; no part may have further ones."""
    known = sorted(trees["train"])
    empty = [name for name in known if not trees["train"][name]]
    if empty:
        raise DataError(
            f"The class folders {', '.join(map(repr, empty))} of {root} hold no training pictures; "
            "add some or move the folders away."
        )
    for part, tree in trees.items():
        unknown = sorted(name for name, files in tree.items() if files and name not in known)
        if unknown:
            raise DataError(
                f"The {part} part of {root} has classes that the training part lacks: "
                f"{', '.join(map(repr, unknown))}; add training pictures or move them away."
            )
    return tuple(known)
