"""The recipes run as they stand, on small pictures and few epochs."""

import pytest

from recipes import elpv, export_savedmodel, feature_pyramid, finetune_folder, linear_probe
from resnet_keras import Phase
from tests.pictures import make_tree


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("photos"), count=10, size=72)


def test_the_linear_probe_learns_from_frozen_features(photos):
    assert linear_probe.main(photos, image_size=64, epochs=20) > 0.6  # 1/3 by chance


def test_a_folder_becomes_a_run_and_the_run_a_saved_model(photos, tmp_path):
    run = tmp_path / "run"
    accuracy = finetune_folder.main(photos, image_size=64, head_epochs=3, epochs=2, run_dir=run)
    assert accuracy > 0.4
    picture = photos / "birch" / "000.png"
    assert export_savedmodel.main(run, tmp_path / "served", picture) in ("ash", "birch", "cedar")


def test_a_small_fpn_learns_to_outline_discs(tmp_path):
    # Calling every pixel a disc gives 0.18.
    assert feature_pyramid.main(tmp_path / "discs.png", size=64, train=96, epochs=5) > 0.3
    assert (tmp_path / "discs.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_benchmark_reports_every_figure_of_every_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(elpv, "PHASES", (Phase("head", epochs=2),))
    rows = elpv.main(seeds=2, folder=tmp_path)
    assert [set(row) for row in rows] == [
        {"accuracy", "balanced_accuracy", "f1", "seconds", "mono", "poly"}
    ] * 2
    # The share of functional cells: what a constant answer would get.
    assert all(row["accuracy"] > 0.69 for row in rows)
    assert "lowest" in capsys.readouterr().out
