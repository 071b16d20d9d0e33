"""`evaluate` and `predict`: the network's own numbers, in order, and bad input."""

import dataclasses

import keras
import numpy as np
import pytest

from resnet_keras.builder import build_resnet
from resnet_keras.data import flip_views, load_images, read_image
from resnet_keras.errors import DataError, DivergedError
from resnet_keras.evaluation import Prediction, evaluate, predict
from resnet_keras.layers import record_of, set_record
from tests.pictures import make_arrays, make_tree

SIZE = 32
CLASSES = ("ash", "birch", "cedar")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    built = build_resnet(18, num_classes=3, width=0.125)
    # A head that starts at random tells pictures apart only in the fourth digit.
    built.get_layer("logits").kernel.assign(10 * built.get_layer("logits").kernel)
    record = record_of(built)
    recipe = dataclasses.replace(record.recipe, image_size=SIZE, crop=1.0)
    set_record(built, dataclasses.replace(record, recipe=recipe, class_names=CLASSES))
    return built


@pytest.fixture(scope="module")
def images(model, tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp("tree"), CLASSES, count=10)
    recipe = record_of(model).recipe
    return load_images(root, recipe=recipe, batch_size=4, validation=0, test=0.3).train


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


# Evaluating


def test_pictures_are_evaluated_in_their_order_whatever_the_batch(model, images):
    assert len(images) % images.batch_size, "the last batch must be short"
    pictures = images.pictures(np.arange(len(images)))
    expected = softmax(np.asarray(model(pictures, training=False)))
    evaluations = [evaluate(model, images), evaluate(model, images, batch_size=5)]
    evaluations.append(evaluate(model, (pictures, images.labels)))
    for evaluation in evaluations:
        np.testing.assert_allclose(evaluation.probabilities, expected, atol=1e-5)
        np.testing.assert_array_equal(evaluation.labels, images.labels)
    assert np.ptp(expected, axis=0).max() > 1e-2, "the pictures must be told apart"
    assert evaluations[0].names == images.names
    assert evaluations[2].class_names == CLASSES


def test_second_evaluation_is_not_traced_again(model, images):
    def traced():
        functions = model.inference_traces.functions.values()
        return [function.experimental_get_tracing_count() for function in functions]

    evaluate(model, images)
    before = traced()
    evaluate(model, images, flips="both")
    evaluate(model, images, batch_size=7)
    assert traced() == before


def test_changed_weights_and_a_new_recipe_are_seen(images):
    model = build_resnet(18, num_classes=len(CLASSES), width=0.125, input_shape=(None, None, 3))
    set_record(model, dataclasses.replace(record_of(model), class_names=CLASSES))
    first = evaluate(model, images).probabilities
    model.get_layer("stem_bn").gamma.assign_add(model.get_layer("stem_bn").gamma)
    model.get_layer("logits").kernel.assign(2 * model.get_layer("logits").kernel)
    second = evaluate(model, images).probabilities
    expected = softmax(np.asarray(model(images.pictures(np.arange(len(images))), training=False)))
    np.testing.assert_allclose(second, expected, atol=1e-5)
    assert np.abs(second - first).max() > 1e-3
    record = record_of(model)
    darker = dataclasses.replace(record.recipe, mean=tuple(2 * mean for mean in record.recipe.mean))
    set_record(model, dataclasses.replace(record, recipe=darker))
    assert np.abs(evaluate(model, images).probabilities - second).max() > 1e-3


def test_bfloat16_stays_close_to_float32_and_leaves_the_model_alone(model, images):
    before = [layer.dtype_policy.name for layer in model.layers]
    exact = evaluate(model, images, precision="float32").probabilities
    half = evaluate(model, images, precision="bfloat16").probabilities
    assert 0 < np.abs(half - exact).max() < 0.02
    assert [layer.dtype_policy.name for layer in model.layers] == before
    with pytest.raises(ValueError, match="`precision` must be one of"):
        evaluate(model, images, precision="int8")


@pytest.mark.parametrize("flips", ["horizontal", "vertical", "both"])
def test_probabilities_are_averaged_over_the_flips(model, images, flips):
    views = flip_views(images.pictures(np.arange(len(images))), flips)
    expected = np.mean([softmax(np.asarray(model(view, training=False))) for view in views], axis=0)
    found = evaluate(model, images, flips=flips).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pictures_of_other_classes_are_refused(model, images):
    other = dataclasses.replace(images, class_names=("birch", "ash", "cedar"))
    with pytest.raises(ValueError, match="same order"):
        evaluate(model, other)


def test_other_number_of_classes_is_refused(model, images):
    with pytest.raises(ValueError, match="2 classes"):
        evaluate(model, dataclasses.replace(images, class_names=("ash", "birch")))


def test_network_without_head_is_refused(images):
    features = build_resnet(18, num_classes=None, width=0.125)
    with pytest.raises(ValueError, match="num_classes"):
        evaluate(features, images)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros((2, 1), int)])
def test_arrays_of_unequal_length_are_refused(model, labels):
    with pytest.raises(ValueError, match="one label each"):
        evaluate(model, (np.zeros((2, SIZE, SIZE, 3), np.uint8), labels))


def test_batch_size_must_be_positive(model, images):
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(model, images, batch_size=0)


def test_network_with_broken_weights_is_named(images):
    broken = build_resnet(18, num_classes=3, width=0.125)
    broken.get_layer("logits").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(DivergedError, match="earlier checkpoint"):
        evaluate(broken, images)
    with pytest.raises(DivergedError, match="earlier checkpoint"):
        predict(broken, [np.zeros((SIZE, SIZE, 3), np.uint8)])


# Predicting


def test_predictions_equal_the_network_on_prepared_pictures(model, tmp_path):
    root = make_tree(tmp_path, CLASSES, count=2, size=50)
    files = sorted(root.rglob("*.png"))
    recipe = record_of(model).recipe
    pictures = np.stack([read_image(file, recipe) for file in files])
    expected = softmax(np.asarray(model(pictures, training=False)))
    found = predict(model, files, batch_size=4)
    assert [each.name for each in found] == list(map(str, files))
    np.testing.assert_allclose(
        [list(each.probabilities.values()) for each in found], expected, atol=1e-5
    )
    assert [each.index for each in found] == expected.argmax(axis=1).tolist()
    assert [each.label for each in found] == [CLASSES[index] for index in expected.argmax(axis=1)]


def test_path_bytes_and_pixels_of_one_picture_give_the_same(model, tmp_path):
    file = make_tree(tmp_path, CLASSES, count=1, size=50) / "ash" / "000.png"
    pixels = make_arrays(1, count=1, size=50)[0][0]
    found = predict(model, [file, str(file), file.read_bytes(), pixels])
    assert [each.probabilities for each in found[1:]] == [found[0].probabilities] * 3
    assert [each.name for each in found] == [str(file), str(file), "picture 2", "picture 3"]


def test_bad_pictures_keep_their_place(model, tmp_path):
    good = make_tree(tmp_path, CLASSES, count=1) / "cedar" / "000.png"
    text = tmp_path / "note.txt"
    text.write_text("no picture")
    sources = [text, good, b"", tmp_path / "missing.png", good]
    found = predict(model, sources, batch_size=2, on_bad_image="skip")
    assert [each.error is None for each in found] == [False, True, False, False, True]
    assert str(text) in found[0].error
    assert found[0].to_dict()["label"] is None
    assert found[1].probabilities == pytest.approx(found[4].probabilities, abs=1e-5)


def test_only_bad_pictures_need_no_network(model):
    assert [each.label for each in predict(model, [b"", b"x"], on_bad_image="skip")] == [None, None]


def test_bad_picture_ends_the_prediction_by_name(model, tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty\.jpg"):
        predict(model, [tmp_path / "empty.jpg"])


def test_nothing_to_predict_is_no_error(model):
    assert predict(model, []) == []


def test_flips_are_averaged_in_predictions(model):
    pixels = make_arrays(1, count=1, size=SIZE)[0][0]
    one = predict(model, [pixels[:, ::-1]], flips="horizontal")[0].probabilities
    other = predict(model, [pixels], flips="horizontal")[0].probabilities
    assert one == pytest.approx(other, abs=1e-5)


def test_network_without_class_names_numbers_them():
    plain = build_resnet(18, num_classes=2, width=0.125)
    (found,) = predict(plain, [np.zeros((SIZE, SIZE, 3), np.uint8)])
    assert list(found.probabilities) == ["0", "1"]
    assert isinstance(found, Prediction)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_picture_are_refused(model, picture):
    with pytest.raises(ValueError, match="one picture, uint8"):
        predict(model, [picture])


def test_single_picture_outside_a_list_is_refused(model):
    with pytest.raises(TypeError, match="list"):
        predict(model, "photo.jpg")


def test_unknown_way_with_bad_pictures_is_refused(model):
    with pytest.raises(ValueError, match="on_bad_image"):
        predict(model, [], on_bad_image="ignore")
