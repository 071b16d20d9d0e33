"""What was found in the data, for people and for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

FIRST = 10
# From here on a network that always names the larger class looks good.
IMBALANCE = 10
CHANGES = {
    "exif": "turned as their EXIF block says",
    "alpha": "put on white where they are transparent",
    "16-bit": "scaled from 16 to 8 bits",
    "cmyk": "converted from CMYK",
    "animation": "animated or of several pages: the first counts",
    "extension": "of another format than their extension says",
}


@dataclasses.dataclass(frozen=True)
class Changed:
    """How many pictures were read in a special way, and the names of the first of them."""

    count: int
    first: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DataReport:
    """Counts, and everything that was left out, changed or is worth knowing.

    Args:
        source: What the pictures come from.
        counts: Number of pictures by part and class.
        bad: Name and reason of each picture that was left out.
        ignored: Number of files that are no pictures, by extension.
        changed: By kind of change (a key of `CHANGES`), the pictures concerned.
        notes: Further remarks, each a sentence.
    """

    source: str
    counts: Mapping[str, Mapping[str, int]]
    bad: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)
    changed: Mapping[str, Changed] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary that JSON can hold."""
        return {
            "source": self.source,
            "counts": {part: dict(counts) for part, counts in self.counts.items()},
            "bad": [{"name": name, "reason": reason} for name, reason in self.bad],
            "ignored": dict(self.ignored),
            "changed": {
                kind: {"count": changed.count, "first": list(changed.first)}
                for kind, changed in self.changed.items()
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.source}: {sum(map(_total, self.counts.values())):,} pictures"
        for part, counts in self.counts.items():
            classes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            yield f"  {part}: {_total(counts):,} ({classes})"
        if self.bad:
            yield f"  left out: {len(self.bad):,} bad pictures"
            yield from (f"    {name} {reason}" for name, reason in self.bad)
        if self.ignored:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.ignored.items())
            yield f"  passed over: files that are no pictures ({kinds})"
        for kind, changed in self.changed.items():
            names = first_names(changed.first, changed.count)
            yield f"  {changed.count:,} {CHANGES[kind]}: {names}"
        yield from (f"  {note}" for note in self.notes)


def collect_changes(named: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Changed]:
    """Gathers (name, changes) by kind of change."""
    names: dict[str, list[str]] = {kind: [] for kind in CHANGES}
    for name, changes in named:
        for kind in changes:
            names[kind].append(name)
    return {kind: Changed(len(of), tuple(of[:FIRST])) for kind, of in names.items() if of}


def count_classes(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
    """Returns the number of pictures of each class."""
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def count_notes(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Returns what the numbers of pictures give reason to say."""
    notes = [
        f"The {part} part has no pictures of {', '.join(missing)}."
        for part in counts
        if (missing := [repr(name) for name, count in counts[part].items() if not count])
    ]
    few, many = (pick(counts["train"], key=counts["train"].__getitem__) for pick in (min, max))
    ratio = counts["train"][many] / counts["train"][few]
    if ratio >= IMBALANCE:
        notes.append(
            f"The classes are unequal: {many!r} has {ratio:.0f} times as many training pictures as "
            f"{few!r}, so look at the figures of each class and not at the accuracy alone."
        )
    return notes


def first_names(names: Sequence[str], total: int) -> str:
    """Returns the first names, and how many more there are."""
    shown = names[:FIRST]
    more = f" and {total - len(shown):,} more" if total > len(shown) else ""
    return ", ".join(shown) + more


def _total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
