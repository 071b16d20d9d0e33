"""ELPV, solar cells in electroluminescence pictures, as a builder of TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from resnet_keras.data.split import apportion, split_off
from resnet_keras.errors import DataError

CLASS_NAMES = ("functional", "defective")
# A cell counts as defective from here on: it was called so by most of those who looked at it.
DEFECTIVE = 0.5
TEST_SHARE = 0.25
SEEDS = range(10)
CITATION = """@article{deitsch2019automatic,
  title = {Automatic classification of defective photovoltaic module cells in
    electroluminescence images},
  author = {Deitsch, Sergiu and Christlein, Vincent and Berger, Stephan and
    Buerhop-Lutz, Claudia and Maier, Andreas and Gallwitz, Florian and Riess, Christian},
  journal = {Solar Energy},
  volume = {185},
  pages = {455--468},
  year = {2019},
  doi = {10.1016/j.solener.2019.02.067},
}"""


@dataclasses.dataclass(kw_only=True)
class ElpvConfig(tfds.core.BuilderConfig):
    """Which of the splits of ELPV.

    Args:
        seed: Of the split into training and test part.
    """

    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        self.name = f"seed{self.seed}"
        self.description = f"Split with seed {self.seed}."


@dataclasses.dataclass(frozen=True)
class Cell:
    """One solar cell: its picture's file name, its probability of a defect, its type."""

    file_name: str
    probability: float
    type: str


class Elpv(tfds.core.GeneratorBasedBuilder):
    """2,624 solar cells of 44 modules, functional or defective, read from `elpv-dataset`.

    75 % train and 25 % test, stratified by probability and type. The pictures are those of
    the installed package; nothing is downloaded.
    """

    name = "elpv"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The pictures and labels of elpv-dataset 1.0.0."}  # noqa: RUF012
    BUILDER_CONFIGS = [ElpvConfig(seed=seed) for seed in SEEDS]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Solar cells extracted from electroluminescence pictures of photovoltaic modules, "
                "each with the probability that it is defective and the type of its module."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(300, 300, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                    "probability": np.float32,
                    "type": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zae-bayern/elpv-dataset",
            license="CC BY-NC-SA 4.0: free for non-commercial use, with the authors named",
            citation=CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        root = _package_data()
        cells = read_cells(root)
        train, test = split_cells(cells, seed=self.builder_config.seed)
        return {"train": _examples(root, train), "test": _examples(root, test)}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        raise NotImplementedError("Each split has its own generator.")


def read_cells(root: Path) -> list[Cell]:
    """Reads the table of cells, three columns set apart by blanks, in a folder."""
    rows = (line.split() for line in (root / "labels.csv").read_text().splitlines())
    return [Cell(name, float(probability), kind) for name, probability, kind in rows]


def split_cells(cells: Sequence[Cell], *, seed: int) -> tuple[list[Cell], list[Cell]]:
    """Draws a quarter of the cells for the test, in proportion from each probability and type."""
    strata = np.array([f"{cell.probability:.2f} {cell.type}" for cell in cells])
    groups, sizes = np.unique(strata, return_counts=True)
    drawn = apportion(sizes.tolist(), round(TEST_SHARE * len(cells)))
    counts = {group: [count] for group, count in zip(groups.tolist(), drawn, strict=True)}
    parts = split_off([cell.file_name for cell in cells], strata, counts, seed=seed)
    train, test = (
        [cell for cell, own in zip(cells, parts, strict=True) if own == part] for part in (0, 1)
    )
    return train, test


def _package_data() -> Path:
    try:
        import elpv_dataset
    except ImportError as error:
        raise DataError(
            "The pictures of ELPV come with a package that is not installed; "
            "install it with `pip install 'resnet-keras[demo]'`."
        ) from error
    return Path(elpv_dataset.__path__[0]) / "data"


def _examples(root: Path, cells: Sequence[Cell]) -> Iterator[tuple[str, dict[str, Any]]]:
    for cell in cells:
        yield (
            cell.file_name,
            {
                "image": root / cell.file_name,
                "label": CLASS_NAMES[cell.probability >= DEFECTIVE],
                "probability": cell.probability,
                "type": cell.type,
                "file_name": cell.file_name,
            },
        )
