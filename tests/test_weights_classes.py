"""The classes of ImageNet-1k, and predictions in their words."""

import keras
import numpy as np
import pytest

from resnet_keras.weights import list_weights, weights_info
from resnet_keras.weights.classes import (
    Prediction,
    decode_predictions,
    imagenet_classes,
    imagenet_names,
)


def test_the_classes_of_imagenet_are_1000_in_the_order_of_their_ids():
    class_ids = [class_id for class_id, _ in imagenet_classes()]
    assert len(class_ids) == 1000
    assert class_ids == sorted(set(class_ids))
    assert len(set(imagenet_names())) == 1000


# The index that Keras, torchvision and timm give these, and WordNet's ids.
@pytest.mark.parametrize(
    ("index", "class_id", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane bird"),
        (207, "n02099601", "golden retriever"),
        (281, "n02123045", "tabby"),
        (517, "n03126707", "crane"),
        (638, "n03710637", "maillot"),
        (639, "n03710721", "maillot tank suit"),
        (954, "n07753592", "banana"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_a_class_stands_where_others_have_it(index, class_id, name):
    assert imagenet_classes()[index] == (class_id, name)


def test_all_weights_of_1000_classes_have_the_names_of_imagenet():
    entries = [weights_info(name) for name in list_weights()]
    assert {entry.record.class_names for entry in entries if entry.num_classes == 1000} == {
        imagenet_names()
    }


def test_the_best_classes_of_imagenet_come_first():
    logits = np.zeros((2, 1000), np.float32)
    logits[0, [207, 281, 954]] = [3.5, 9.25, -1.0]
    logits[1, 999] = 0.5
    first, second = decode_predictions(logits, top=2)
    assert first == [
        Prediction("n02123045", "tabby", 9.25),
        Prediction("n02099601", "golden retriever", 3.5),
    ]
    assert second[0] == ("n15075141", "toilet tissue", 0.5)


def test_own_classes_have_their_index_and_all_are_returned_if_fewer_than_top():
    probabilities = keras.ops.convert_to_tensor([[0.25, 0.5, 0.25]])
    (found,) = decode_predictions(probabilities, ["cat", "dog", "bird"])
    assert found == [("1", "dog", 0.5), ("0", "cat", 0.25), ("2", "bird", 0.25)]


def test_an_empty_batch_has_no_predictions():
    assert decode_predictions(np.zeros((0, 1000))) == []


@pytest.mark.parametrize(
    ("outputs", "names", "top", "sentence"),
    [
        (np.zeros(1000), None, 5, r"`outputs` must have the shape \(batch, classes\)"),
        (np.zeros((1, 10)), None, 5, "ImageNet-1k has 1000.*Received: 10 columns"),
        (np.zeros((1, 3)), ["a", "b"], 5, "`class_names` has 2.*Received: 3 columns"),
        (np.zeros((1, 1000)), None, 0, "`top` must be positive. Received: top=0"),
    ],
)
def test_what_cannot_be_named_is_refused(outputs, names, top, sentence):
    with pytest.raises(ValueError, match=sentence):
        decode_predictions(outputs, names, top=top)
