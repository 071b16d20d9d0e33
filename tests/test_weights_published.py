"""What the registry says of each publisher's weights is what the publisher says."""

import functools
import math

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_network
from resnet_keras.records import Record
from resnet_keras.weights import REGISTRY, list_weights, weights_info
from tests.torch_packages import import_or_skip
from tests.weights_facts import CLASSIFICATION_MODELS, TIMM, TORCHVISION

SHALLOW = [name for name in list_weights() if REGISTRY[name].record.spec.depth <= 50]
DEEP = [name for name in list_weights() if REGISTRY[name].record.spec.depth > 50]
# Measured on other machines, with other releases of the libraries, in other years.
ROUNDING = 0.05


def of_family(family):
    return {name for name, entry in REGISTRY.items() if entry.family == family}


def test_torchvision_is_complete():
    assert of_family("torchvision") == set(TORCHVISION)
    for name, (file, top1, top5, resized) in TORCHVISION.items():
        entry = weights_info(name)
        assert entry.files[0].url == f"https://download.pytorch.org/models/{file}"
        assert (entry.scores[0].top1, entry.scores[0].top5) == (top1, top5)
        recipe = entry.record.recipe
        assert (recipe.image_size, recipe.resize_to) == (224, resized)
        assert recipe.interpolation == "bilinear"
        np.testing.assert_allclose(np.array(recipe.mean) / 255, [0.485, 0.456, 0.406], rtol=1e-12)
        np.testing.assert_allclose(np.array(recipe.std) / 255, [0.229, 0.224, 0.225], rtol=1e-12)


@pytest.mark.parametrize("name", TIMM)
def test_timm_agrees(name):
    digits, size, crop, interpolation, *accuracies = TIMM[name]
    entry = weights_info(name)
    recipe = entry.record.recipe
    assert (recipe.image_size, recipe.crop, recipe.interpolation) == (size, crop, interpolation)
    assert entry.files[0].url == f"hf://timm/{name}/model.safetensors"
    assert [file.sha256 for file in entry.files[1:]] == ([digits] if digits else [])
    for score, accuracy in zip(entry.scores, accuracies, strict=False):
        assert accuracy is None or score.top1 == pytest.approx(accuracy, abs=ROUNDING)
    assert len(entry.scores) >= sum(accuracy is not None for accuracy in accuracies)


def test_what_facebook_published_is_not_for_commercial_use():
    names = [name for name in list_weights() if ".fb_" in name]
    assert len(names) == 16
    assert {weights_info(name).record.licence for name in names} == {"CC-BY-NC-4.0"}


def test_half_statistics_belong_to_the_preactivation_and_ra4_networks_of_timm():
    half = {
        name
        for name in of_family("timm")
        if weights_info(name).record.recipe.mean == (127.5, 127.5, 127.5)
    }
    assert half == {name for name in of_family("timm") if "resnetv2" in name or ".ra4" in name}


def test_keras_applications_has_every_file_of_keras():
    from keras.src.applications.resnet import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

    assert len(of_family("keras.applications")) == 2 * len(WEIGHTS_HASHES)
    for network, digests in WEIGHTS_HASHES.items():
        for ending, digest in zip(("", "_notop"), digests, strict=True):
            (file,) = weights_info(f"{network}.keras_applications{ending}").files
            name = f"{network}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
            assert (file.url, file.md5) == (BASE_WEIGHTS_PATH + name, digest)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("resnet50", keras.applications.ResNet50),
        ("resnet50v2", keras.applications.ResNet50V2),
    ],
)
def test_keras_applications_has_the_parameters_and_the_epsilon_of_keras(name, build):
    with keras.StatelessScope(initialize_variables=False):
        theirs = {ending: build(weights=None, include_top=not ending) for ending in ("", "_notop")}
    for ending, model in theirs.items():
        entry = weights_info(f"{name}.keras_applications{ending}")
        assert _count(model.trainable_variables) == entry.parameters
        assert model.get_layer("conv2_block1_1_bn").epsilon == entry.record.spec.bn_epsilon
    keras.backend.clear_session()


def test_kerashub_has_every_preset_that_the_spec_expresses():
    from keras_hub.models import ResNetBackbone

    presets = {name: values["kaggle_handle"] for name, values in ResNetBackbone.presets.items()}
    # Its stages have 3, 12, 48 and 3 blocks; those of the ResNet-200 of the paper 3, 24, 36 and 3.
    assert of_family("KerasHub") == set(presets)
    for name, handle in presets.items():
        (file,) = weights_info(name).files
        if "_vd_" in name:
            assert (file.url, file.layout) == (handle, "keras_hub")
        else:
            assert (file.url.partition("://")[0], file.layout) == ("hf", "torch")
            assert "converted from timm" in weights_info(name).record.source


def test_classification_models_is_complete():
    files = {
        file.name: file.md5
        for name in of_family("classification_models")
        for file in weights_info(name).files
    }
    assert files == {
        f"{name}{ending}.h5": digest
        for name, digests in CLASSIFICATION_MODELS.items()
        for ending, digest in zip(("", "_no_top"), digests, strict=True)
    }


@pytest.mark.parametrize("name", SHALLOW)
def test_the_network_has_the_published_parameters(name):
    _check_parameters(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_the_deep_network_has_the_published_parameters(name):
    _check_parameters(name)


@pytest.mark.slow
def test_timm_says_the_same_of_all_its_weights():
    models = import_or_skip("timm.models")
    configs = {
        f"{arch}.{tag}": config
        for module in (models.resnet, models.resnetv2)
        for arch, configs in module.default_cfgs.items()
        for tag, config in configs.cfgs.items()
    }
    for name in of_family("timm"):
        entry, config = weights_info(name), configs[name]
        recipe = entry.record.recipe
        assert (recipe.image_size, recipe.crop) == (config.input_size[1], config.crop_pct)
        assert recipe.interpolation == config.interpolation
        np.testing.assert_allclose(recipe.mean, 255 * np.array(config.mean), rtol=1e-12)
        np.testing.assert_allclose(recipe.std, 255 * np.array(config.std), rtol=1e-12)
        assert entry.record.licence.lower() == (config.license or "not stated")
        assert entry.num_classes == (config.num_classes or None)
        assert [file.name for file in entry.files if file.name.endswith(".pth")] == (
            [config.url.rpartition("/")[2]] if config.url else []
        )
        for score in entry.scores[1:]:
            assert score.image_size == config.test_input_size[1]
            assert score.crop == (config.test_crop_pct or config.crop_pct)


def _check_parameters(name):
    entry = weights_info(name)
    body, features = _size(entry.record.spec)
    head = 0 if entry.num_classes is None else (features + 1) * entry.num_classes
    assert body + head == entry.parameters


@functools.cache
def _size(spec):
    """Returns the parameters of a network without its head, and the features that a head sees."""
    # Variables have shapes here and no values, which would be gigabytes.
    with keras.StatelessScope(initialize_variables=False):
        model = build_network(Record(spec), num_classes=None)
        size = _count(model.trainable_variables), model.output.shape[-1]
    keras.backend.clear_session()
    return size


def _count(variables):
    return sum(math.prod(variable.shape) for variable in variables)
