"""`resnet-keras weights list` and `info` from outside."""

import json
import subprocess
import sys

import pytest

from resnet_keras.specs import ResNetSpec
from resnet_keras.weights import REGISTRY, list_weights


def call(*arguments):
    program = "from resnet_keras.cli import main; main()"
    command = [sys.executable, "-c", program, "weights", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rows():
    return json.loads(call("list", "--json"))


def test_the_list_has_all_weights_the_most_accurate_first(rows):
    assert sorted(row["name"] for row in rows) == list(list_weights())
    known = [row["top1"] for row in rows if row["top1"] is not None]
    assert known == sorted(known, reverse=True)
    assert [row["top1"] for row in rows[len(known) :]] == [None] * (len(rows) - len(known))


def test_a_row_has_the_best_score_and_where_it_was_reached(rows):
    row = next(row for row in rows if row["name"] == "resnet50.a1_in1k")
    assert row == {
        "name": "resnet50.a1_in1k",
        "family": "timm",
        "network": "ResNet-50 v1.5",
        "depth": 50,
        "pixels": 288,
        "top1": 81.24,
        "top5": 95.112,
        "parameters": 25_557_032,
        "licence": "Apache-2.0",
    }


def test_the_table_can_be_restricted_to_a_depth_and_a_family():
    lines = call("list", "--depth", "50", "--family", "TorchVision").splitlines()
    assert lines[0].split() == ["name", "network", "pixels", "top-1", "parameters", "licence"]
    names = [line.split()[0] for line in lines[1:-2]]
    assert names == [
        "wide_resnet50_2.IMAGENET1K_V2",
        "resnext50_32x4d.IMAGENET1K_V2",
        "resnet50.IMAGENET1K_V2",
        "wide_resnet50_2.IMAGENET1K_V1",
        "resnext50_32x4d.IMAGENET1K_V1",
        "resnet50.IMAGENET1K_V1",
    ]
    assert lines[-1] == ("6 sets of weights; most accurate: wide_resnet50_2.IMAGENET1K_V2, 81.60 %")


def test_nothing_found_is_said():
    assert call("list", "--depth", "19") == "No weights are known of that depth and family.\n"


def test_info_says_where_the_files_are_and_what_the_licence_forbids():
    shown = call("info", "resnext50_32x4d.fb_swsl_ig1b_ft_in1k")
    assert "CC-BY-NC-4.0 (not for commercial use)" in shown
    assert "hf://timm/resnext50_32x4d.fb_swsl_ig1b_ft_in1k/model.safetensors" in shown
    assert "resnext50_32x4-72679e44.pth (sha256 begins 72679e44)" in shown
    assert "top-1 82.162 %, top-5 96.224 % at 224 pixels" in shown
    assert "1000: tench, goldfish, great white shark, ..." in shown


def test_info_says_how_pictures_are_prepared():
    shown = call("info", "resnet50.keras_applications")
    assert "256 pixels on the short side, antialiased" in shown
    assert "BGR, turned round in the first kernel" in shown
    assert "channel order   RGB" in call("info", "imagenet")


def test_info_as_json_is_the_entry():
    name = "resnet101v2.keras_applications_notop"
    facts = json.loads(call("info", name, "--json"))
    assert facts == json.loads(json.dumps(REGISTRY[name].to_dict()))
    assert facts["record"]["licence"] == "not stated"


def test_weights_are_listed_without_tensorflow():
    program = (
        "import sys; from resnet_keras.cli import main\n"
        "try: main(['weights', 'list'])\n"
        "except SystemExit: pass\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (ResNetSpec(18), "ResNet-18 v1.5"),
        (ResNetSpec(50, "d"), "ResNet-50 d"),
        (ResNetSpec(50, "v1", 0.5), "ResNet-50 v1, width 0.5"),
        (ResNetSpec(101, groups=64, width_per_group=4), "ResNeXt-101 64x4d v1.5"),
        (ResNetSpec(50, width_per_group=128), "Wide ResNet-50-2 v1.5"),
    ],
)
def test_a_network_is_called_by_its_name(spec, title):
    assert spec.title == title
