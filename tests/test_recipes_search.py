"""The recipe of a search compares what it found with the usual, on pictures it had not seen."""

import csv

import pytest

from recipes import search_head_and_depth
from resnet_keras import load_images
from tests.pictures import make_tree

SMALL = {"image_size": 64, "max_trials": 4, "epochs": 3, "finalists": 2, "repeats": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("photos"), count=12, size=72)


@pytest.mark.slow
def test_the_best_head_meets_the_usual_one_on_the_test_part(photos, tmp_path, capsys):
    (row,) = search_head_and_depth.main(str(photos), folder=tmp_path, fine_tunes=0, **SMALL)
    assert list(row) == ["usual head", "best head"]
    assert all(0 <= accuracy <= 1 for accuracy in row.values())
    printed = capsys.readouterr().out
    assert f"best head       {row['best head']:.4f}" in printed
    assert "over the usual one; one seed tells no more" in printed
    with (tmp_path / "seed0" / "best_head" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SMALL["max_trials"]
    for name in ("usual_head", "best_head/winner"):
        metrics = (tmp_path / "seed0" / name / "metrics.csv").read_text().splitlines()
        assert len(metrics) == 1 + SMALL["epochs"]


@pytest.mark.slow
def test_each_seed_searches_heads_and_networks_in_a_split_of_its_own(photos, tmp_path, capsys):
    options = {"seeds": 2, "fine_tunes": 2, "fine_epochs": 2, **SMALL}
    rows = search_head_and_depth.main(str(photos), folder=tmp_path, **options)
    names = ["usual head", "best head", "usual network", "best network"]
    assert [list(row) for row in rows] == [names] * 2
    assert capsys.readouterr().out.count("the standard error.") == 2
    facts = [(tmp_path / f"seed{seed}" / "best_network" / "config.yaml") for seed in range(2)]
    assert facts[0].read_text() != facts[1].read_text()
    # What has ended is only read.
    assert search_head_and_depth.main(str(photos), folder=tmp_path, **options) == rows


def test_seeds_split_the_pictures_anew(photos):
    parts = [
        search_head_and_depth.load(str(photos), "open_nsfw", image_size=64, seed=seed).test.names
        for seed in (0, 1, 0)
    ]
    assert parts[0] == parts[2] != parts[1]


@pytest.mark.slow
def test_solar_cells_are_split_by_the_seed_and_not_cropped():
    loaded = search_head_and_depth.load("tfds:elpv", "open_nsfw", image_size=32, seed=1)
    same = load_images("tfds:elpv/seed1", image_size=32, recipe=loaded.recipe, seed=1)
    assert loaded.test.names == same.test.names
    assert loaded.recipe.crop == 1.0


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        # Standard errors of 0.1 / sqrt(2) * sqrt(2) / 2 and 0.2 / 2.
        ([0.1, 0.2], "+0.1500 ± 0.0500 over the usual one: it is better by more"),
        ([0.0, 0.2], "+0.1000 ± 0.1000 over the usual one: it is not better by more"),
        ([-0.2, -0.1], "-0.1500 ± 0.0500 over the usual one: it is not better by more"),
    ],
)
def test_a_gain_counts_if_it_is_larger_than_its_standard_error(gains, said):
    rows = [{"usual head": 0.5, "best head": 0.5 + gain} for gain in gains]
    assert said in search_head_and_depth.verdict(rows, "head")
