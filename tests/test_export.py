"""The export: what it answers, what it refuses, and what strangers make of it."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorflow.core.protobuf import saved_model_pb2

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.builder import build_network
from resnet_keras.data import read_image
from resnet_keras.errors import ExportError
from resnet_keras.export import (
    decode_pictures,
    export_model,
    network,
    verify_saved_model,
    write_model_card,
)
from resnet_keras.export.publish import new_version
from resnet_keras.precision import choose_precision
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from tests.picture_files import PICTURES, encoded, noise
from tests.pictures import make_picture

SIDE = 32
RECIPE = Recipe(image_size=SIDE)
RECORD = Record(
    spec=ResNetSpec(18, width=0.125), recipe=RECIPE, source="tests", licence="Apache-2.0"
)
NAMES = ("Äpfel", "桜 und Bäume", "*plain*")


def make_model(*, num_classes: int | None = 3, record: Record = RECORD, seed: int = 0, **options):
    """Returns a small network whose probabilities depend on the picture, and are not one-hot."""
    keras.utils.set_random_seed(seed)
    model = build_network(record, num_classes=num_classes, zero_init_residual=False, **options)
    if num_classes:
        kernel, bias = model.get_layer("logits").get_weights()
        model.get_layer("logits").set_weights([0.2 * kernel, bias])
    return model


def random_norms(model: keras.Model) -> keras.Model:
    """Gives each batch norm statistics, a scale and an offset that folding must not lose."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, BatchNorm):
            shape = layer.gamma.shape
            ranges = [(0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2.0)]
            layer.set_weights([rng.uniform(*each, shape) for each in ranges])
    return model


def probabilities_of(model: keras.Model, image: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.softmax(model(image, training=False)))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    record = dataclasses.replace(RECORD, class_names=NAMES)
    return random_norms(make_model(record=record, dropout=0.5))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "7").mkdir()
    (folder / "notes").mkdir()
    return export_model(model, folder)


@pytest.fixture(scope="module")
def half(model, tmp_path_factory) -> Path:
    """The same model in bfloat16."""
    return export_model(model, tmp_path_factory.mktemp("half"), precision="bfloat16")


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.stack([make_picture(index, size=SIDE) for index in range(4)])


def _labels(folder: Path) -> list[str]:
    return (folder / "assets.extra" / "labels.txt").read_text(encoding="utf-8").splitlines()


def _meta_graph(folder: Path):
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return model.meta_graphs[0]


# --- signatures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "name", "spec"),
    [
        ("serve", "image", tf.TensorSpec((None, None, None, 3), tf.uint8, "image")),
        ("serving_default", "image", tf.TensorSpec((None, None, None, 3), tf.uint8, "image")),
        ("serve_bytes", "image_bytes", tf.TensorSpec((None,), tf.string, "image_bytes")),
    ],
)
def test_signatures_have_fixed_names_types_and_shapes(loaded, *, signature, name, spec):
    function = loaded.signatures[signature]
    assert function.structured_input_signature == ((), {name: spec})
    outputs = function.structured_outputs
    assert {key: (each.dtype, each.shape.as_list()) for key, each in outputs.items()} == {
        "probabilities": (tf.float32, [None, 3]),
        "label": (tf.string, [None]),
        "index": (tf.int64, [None]),
    }


def test_an_export_answers_as_its_model(model, loaded, image):
    answer = loaded.signatures["serve"](image=tf.constant(image))
    expected = probabilities_of(model, image)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(answer["index"], expected.argmax(-1))
    labels = [label.decode() for label in answer["label"].numpy()]
    assert labels == [NAMES[index] for index in expected.argmax(-1)]


def test_the_functions_are_methods_of_what_was_loaded(loaded, image):
    by_method = loaded.serve(tf.constant(image))["probabilities"]
    by_signature = loaded.signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_array_equal(by_method, by_signature["probabilities"])


def test_the_names_are_a_file_too(exported):
    assert _labels(exported) == ["Äpfel", "桜 und Bäume", "*plain*"]


@pytest.mark.parametrize("signature", ["serve", "serve_bytes"])
def test_an_empty_batch_has_an_empty_answer(loaded, signature):
    given = {
        "serve": {"image": tf.zeros((0, SIDE, SIDE, 3), tf.uint8)},
        "serve_bytes": {"image_bytes": tf.zeros((0,), tf.string)},
    }[signature]
    answer = loaded.signatures[signature](**given)
    assert {key: tuple(each.shape) for key, each in answer.items()} == {
        "probabilities": (0, 3),
        "label": (0,),
        "index": (0,),
    }


@pytest.mark.parametrize(("height", "width"), [(20, 30), (SIDE, SIDE + 1), (2 * SIDE, 2 * SIDE)])
@pytest.mark.parametrize("count", [0, 2])
def test_pictures_of_another_size_are_refused(loaded, *, height, width, count):
    message = rf"image must be 32 x 32 pixels. Received: {height} x {width}\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.signatures["serve"](image=tf.zeros((count, height, width, 3), tf.uint8))


@pytest.mark.parametrize("data", [b"", b"x", b"this is no picture", b"\0" * 100, b"RIFF0000WAVE"])
def test_bytes_that_are_no_picture_are_refused_by_their_place(loaded, data):
    files = tf.constant([encoded(noise(9, 9), "PNG"), data])
    message = rf"image_bytes\[1\] must be a picture in one of .* Received: {len(data)} bytes"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.signatures["serve_bytes"](image_bytes=files)


def test_the_graph_holds_nothing_of_training(exported, model):
    library = _meta_graph(exported).graph_def.library.function
    operations = {node.op for function in library for node in function.node_def}
    assert not {op for op in operations if "Random" in op or "Dropout" in op or "Grad" in op}
    assert "DecodeJpeg" in operations


def _operations(folder: Path) -> Counter:
    graph = _meta_graph(folder).graph_def
    functions = [node for function in graph.library.function for node in function.node_def]
    return Counter(node.op for node in [*graph.node, *functions])


def _variables(folder: Path) -> list[str]:
    names = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    return [name for name in names.get_variable_to_shape_map() if "weights/" in name]


def test_weights_are_constants_held_once_and_no_batch_norm_is_left(exported, model):
    operations = _operations(exported)
    assert not {name for name in operations if "BatchNorm" in name or "Variable" in name}
    assert operations["Conv2D"] == sum(isinstance(x, keras.layers.Conv2D) for x in model.layers)
    size = 4 * model.count_params()
    assert 0.95 * size < (exported / "saved_model.pb").stat().st_size < 1.5 * size
    assert _variables(exported) == []


CONVOLUTIONS = """
import sys
import tensorflow as tf
folder, side = sys.argv[1], int(sys.argv[2])
tf.saved_model.load(folder).signatures["serve"](image=tf.zeros((1, side, side, 3), tf.uint8))
"""


def test_kernels_of_a_new_network_add_bias_and_relu_themselves(tmp_path):
    # Its norms fold to biases of 0, which TensorFlow takes for no bias at all.
    folder = export_model(make_model(), tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", CONVOLUTIONS, str(folder), str(SIDE)],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    kernels = [line for line in told if ",exec,cpu,convolution," in line]
    # All convolutions but those of the four projections have a ReLU behind them.
    assert len(kernels) == 21
    assert sum("eltwise_relu" in line for line in kernels) == 17


def test_batch_norms_before_a_convolution_stay_with_constant_statistics(tmp_path, image):
    spec = dataclasses.replace(RECORD.spec, variant="v2")
    model = random_norms(make_model(record=dataclasses.replace(RECORD, spec=spec)))
    folder = export_model(model, tmp_path)
    operations = _operations(folder)
    # Of each of the eight blocks the first, and the one behind the last.
    assert operations["FusedBatchNormV3"] == 9
    assert not {name for name in operations if "Variable" in name}
    served = tf.saved_model.load(str(folder))
    found = served.signatures["serve"](image=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-5)


def test_weights_too_large_for_constants_are_variables(tmp_path, monkeypatch, image):
    model = random_norms(make_model())
    monkeypatch.setattr(network, "CONSTANT_BYTES", 100_000)
    folder = export_model(model, tmp_path)
    convolutions = sum(isinstance(each, keras.layers.Conv2D) for each in model.layers)
    assert len(_variables(folder)) == 2 * (convolutions + 1)  # kernel and bias, and of the logits
    assert (folder / "saved_model.pb").stat().st_size < 3 * model.count_params()
    served = tf.saved_model.load(str(folder))
    found = served.signatures["serve"](image=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(50, width=0.125, variant="v1"),
        ResNetSpec(101, width=0.125),
        ResNetSpec(50, width=0.125, variant="v2"),
        ResNetSpec(50, width=0.125, variant="d"),
        ResNetSpec(50, width=0.125, groups=8, width_per_group=8),
        ResNetSpec(20, stem="cifar", shortcut="A"),
    ],
    ids=["v1", "v1.5", "v2", "d", "resnext", "cifar"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_random_networks_of_large_logits_are_published(tmp_path, *, spec, precision):
    keras.utils.set_random_seed(0)
    record = dataclasses.replace(RECORD, spec=spec)
    model = random_norms(build_network(record, num_classes=10, zero_init_residual=False))
    assert export_model(model, tmp_path, precision=precision).name == "1"


def test_bytes_are_answered_as_the_decoded_pictures(model, loaded):
    files = list(PICTURES.values())
    answer = loaded.signatures["serve_bytes"](image_bytes=tf.constant(files))
    expected = probabilities_of(model, np.stack([read_image(file, RECIPE) for file in files]))
    # A few decoded pixels differ by 1 of 255 from Pillow's.
    np.testing.assert_allclose(answer["probabilities"], expected, atol=5e-3)


# --- precision ------------------------------------------------------------------------------


def test_bfloat16_answers_nearly_as_the_model_and_in_float32(model, half, image):
    served = tf.saved_model.load(str(half))
    answer = served.signatures["serve"](image=tf.constant(image))
    assert answer["probabilities"].dtype == tf.float32
    expected = probabilities_of(model, image)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=2e-2)
    # It did compute in 16 bits.
    assert np.abs(answer["probabilities"] - expected).max() > 1e-5
    empty = served.signatures["serve"](image=tf.zeros((0, SIDE, SIDE, 3), tf.uint8))
    assert {key: len(each) for key, each in empty.items()} == dict.fromkeys(answer, 0)


def test_bfloat16_halves_the_file(half, exported, model):
    sizes = [(folder / "saved_model.pb").stat().st_size for folder in (half, exported)]
    assert sizes[1] - sizes[0] > 1.9 * model.count_params()


def test_bfloat16_kernels_reach_the_convolutions_as_they_are_stored(half):
    """What is cast at each call costs time, and oneDNN does not keep it in its own order."""
    library = _meta_graph(half).graph_def.library.function
    nodes = {node.name: node for function in library for node in function.node_def}
    kernels = {
        nodes[node.input[1].partition(":")[0]].op for node in nodes.values() if node.op == "Conv2D"
    }
    assert kernels == {"Const"}


def test_the_policy_of_the_model_does_not_decide(model, tmp_path, image):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = make_model()
    finally:
        keras.config.set_dtype_policy(before)
    mixed.set_weights(model.get_weights())
    served = tf.saved_model.load(str(export_model(mixed, tmp_path)))
    found = served.signatures["serve"](image=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-6)


def test_the_model_stays_as_it_was(tmp_path):
    model = random_norms(make_model())
    model.get_layer("stem_conv").trainable = False
    model.get_layer("stem_bn").fixed_statistics = True
    model.get_layer("stage1_block1_1_bn").trainable = False

    def state() -> tuple:
        config = json.dumps([layer.get_config() for layer in model.layers], sort_keys=True)
        policies = [layer.dtype_policy.name for layer in model.layers]
        trained = [variable.path for variable in model.trainable_variables]
        return config, policies, trained, [array.tobytes() for array in model.get_weights()]

    before = state()
    export_model(model, tmp_path, precision="bfloat16")
    assert state() == before


def test_the_files_beside_say_the_precision(exported, half):
    for folder, dtype in ((exported, "float32"), (half, "bfloat16")):
        extra = folder / "assets.extra"
        assert (extra / "precision.txt").read_text() == f"{dtype}\n"
        card = (extra / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert f"The convolutions compute in {dtype}" in card
        assert ("slowly" in card) == (dtype == "bfloat16")


@pytest.mark.slow
def test_auto_is_what_is_faster_here(model, tmp_path):
    folder = export_model(model, tmp_path, precision="auto")
    written = (folder / "assets.extra" / "precision.txt").read_text().strip()
    assert written == choose_precision().dtype


def test_an_unknown_precision_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"`precision` must be one of .* Received: 'int8'"):
        export_model(model, tmp_path, precision="int8")
    assert not any(tmp_path.iterdir())


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "one name for each of the 3 logits"),
        ("abc", "one name for each of the 3 logits"),
        (("a", "b\nc", "d"), "on one line"),
        (("a", "", "d"), "on one line"),
        (("a", 1, "d"), "on one line"),
    ],
)
def test_names_that_do_not_fit_are_refused(model, tmp_path, *, names, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        export_model(model, tmp_path, class_names=names)
    assert not any(tmp_path.iterdir())


def test_features_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in logits.*Received"):
        export_model(make_model(num_classes=None), tmp_path)


def test_an_input_of_another_size_than_the_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"32 x 32 pixels\. Received.*\(64, 64, 3\)"):
        export_model(make_model(input_shape=(64, 64, 3)), tmp_path)


def test_another_format_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"must be 'saved_model'\. Received: format='onnx'"):
        export_model(model, tmp_path, format="onnx")


# --- publishing -----------------------------------------------------------------------------


def test_versions_count_on_from_the_largest(exported):
    folder = exported.parent
    assert exported == folder / "8"
    assert sorted(path.name for path in folder.iterdir()) == ["7", "8", "notes"]


def test_a_version_is_as_readable_as_any_new_folder(exported):
    assert exported.stat().st_mode == exported.with_name("7").stat().st_mode


def test_exports_at_the_same_time_take_different_numbers(tmp_path):
    published, together = [], threading.Barrier(8)

    def export() -> None:
        with new_version(tmp_path) as version:
            version.folder.mkdir()
            (version.folder / "file").write_text("whole")
            together.wait()
        published.append(version.published)

    threads = [threading.Thread(target=export) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in published) == list(range(1, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == list("12345678")


def test_a_model_that_is_not_finite_is_never_published(exported, model, tmp_path):
    shutil.copytree(exported, tmp_path / "1")
    broken = make_model()
    broken.get_layer("logits").bias.assign([np.nan] * 3)
    with pytest.raises(ExportError, match=r"`serve\w*` differs by up to nan; it was not published"):
        export_model(broken, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.fixture
def full_disk():
    """Lets no file grow beyond 100 kB, as a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_what_was_there(model, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_text("an earlier version")
    with pytest.raises(ExportError, match=r"could not be written .*\(File too large\): free space"):
        export_model(model, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "saved_model.pb"]


def test_a_path_that_is_a_file_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ExportError, match="is a file"):
        export_model(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a folder that not even root writes")
def test_a_folder_that_cannot_be_written_is_refused(model):
    with pytest.raises(ExportError, match=r"could not be written to the folder /proc/export"):
        export_model(model, "/proc/export")


# --- verification ---------------------------------------------------------------------------


def test_another_model_than_the_exported_one_is_seen(exported):
    with pytest.raises(ExportError, match=r"within 0.0001, but `serve\w*` differs by up to 0\."):
        verify_saved_model(exported, make_model(seed=1), NAMES)


def _with_recipe(model: keras.Model, **changes) -> keras.Model:
    record = dataclasses.replace(RECORD, recipe=dataclasses.replace(RECIPE, **changes))
    other = make_model(record=record, dropout=0.5)
    other.set_weights(model.get_weights())
    return other


def _with_one_kernel_off(model: keras.Model) -> keras.Model:
    other = _with_recipe(model)
    kernel = other.get_layer("stage2_block2_1_conv").kernel
    kernel.assign(-kernel)
    return other


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: _with_recipe(model, mean=(123.675, 116.28, 93.53)),
        lambda model: _with_recipe(model, crop=0.8),
        _with_one_kernel_off,
    ],
    ids=["mean", "crop", "weight"],
)
def test_a_wrong_mean_crop_or_weight_is_seen_in_bfloat16_too(half, model, wrong):
    with pytest.raises(ExportError, match="differs by up to"):
        verify_saved_model(half, wrong(model), NAMES, precision="bfloat16")


def test_names_in_another_order_are_seen(exported, model):
    with pytest.raises(ExportError, match="`label` and `index`"):
        verify_saved_model(exported, model, [*NAMES[1:], NAMES[0]])


def test_a_damaged_saved_model_is_seen(exported, model, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1000])
    with pytest.raises(ExportError, match=r"did not \(exit status 1, .*\w.*\); it was not publ"):
        verify_saved_model(folder, model, NAMES)


def test_a_network_of_one_channel_takes_pixels_alone(tmp_path):
    grey = Recipe(image_size=SIDE, mean=(120.0,), std=(60.0,))
    model = make_model(record=dataclasses.replace(RECORD, recipe=grey), input_shape=(None, None, 1))
    folder = export_model(model, tmp_path, class_names=["x", "y", "z"])
    assert _labels(folder) == ["x", "y", "z"]
    loaded = tf.saved_model.load(str(folder))
    assert set(loaded.signatures) == {"serve", "serving_default"}
    image = noise(SIDE, SIDE)[np.newaxis, ..., :1]
    found = loaded.signatures["serve"](image=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-6)


# --- strangers ------------------------------------------------------------------------------

STRANGER = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
image = tf.constant(np.load(sys.argv[2]))
np.save(sys.argv[3], loaded.signatures["serve"](image=image)["probabilities"].numpy())
assert not [name for name in sys.modules if "resnet_keras" in name], "this package was imported"
try:
    import resnet_keras
except ImportError:
    print("not installed")
"""


def test_a_process_that_cannot_import_this_package_gets_the_same(
    model, exported, *, tmp_path, image
):
    np.save(tmp_path / "image.npy", image)
    # Without the folder of this checkout, and with an entry that shadows an installed package.
    (tmp_path / "resnet_keras.py").write_text("raise ImportError('not for strangers')")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, exported, tmp_path / "image.npy", tmp_path / "found.npy"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "not installed\n"
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-6)


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Path:
    """A C program on TensorFlow's own loader of SavedModels."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program = tmp_path_factory.mktemp("client") / "client"
    library = tf.sysconfig.get_lib()
    subprocess.run(
        [
            "gcc",
            "-Wall",
            f"-I{tf.sysconfig.get_include()}",
            Path(__file__).with_name("saved_model_client.c"),
            f"-L{library}",
            f"-Wl,-rpath,{library}",
            "-l:libtensorflow_cc.so.2",
            "-l:libtensorflow_framework.so.2",
            "-o",
            program,
        ],
        check=True,
    )
    return program


def ask_client(
    client: Path, folder: Path, signature: str, *, data: bytes, count: int, scratch: Path
):
    (scratch / "data").write_bytes(data)
    spec = _meta_graph(folder).signature_def[signature]
    (given,) = spec.inputs.values()
    names = [given.name, spec.outputs["probabilities"].name, spec.outputs["label"].name]
    kind = "image" if signature == "serve" else "bytes"
    return subprocess.run(
        [client, folder, kind, *names, scratch / "data", str(count), str(SIDE)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("signature", ["serve", "serve_bytes"])
def test_the_loader_that_servers_use_gives_the_same(
    client, exported, *, model, tmp_path, image, signature
):
    file = PICTURES["exif 6 <"]
    data = image.tobytes() if signature == "serve" else file
    seen = image if signature == "serve" else decode_pictures(tf.constant([file]), RECIPE).numpy()
    done = ask_client(client, exported, signature, data=data, count=len(seen), scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    expected = probabilities_of(model, seen)
    found = np.reshape([float(line) for line in lines[: expected.size]], expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert lines[expected.size :] == [NAMES[index] for index in expected.argmax(-1)]


def test_the_loader_that_servers_use_passes_the_sentence_on(client, exported, tmp_path):
    done = ask_client(client, exported, "serve_bytes", data=b"text", count=1, scratch=tmp_path)
    assert done.returncode == 1
    assert "image_bytes[0] must be a picture in one of the formats" in done.stderr


def test_openvino_reads_the_folder_and_gives_the_same(model, exported, image):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    network = core.compile_model(
        core.read_model(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = network(image)["probabilities"]
    np.testing.assert_allclose(found, probabilities_of(model, image), atol=1e-5)


# --- the model card -------------------------------------------------------------------------


def test_the_card_of_an_export_says_what_it_is(exported):
    text = (exported / "assets.extra" / "MODEL_CARD.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "keras"
    assert head["pipeline_tag"] == "image-classification"
    assert head["license"] == "apache-2.0"
    assert "model-index" not in head
    assert all(
        part in text for part in ("serve_bytes", "uint8 `(n, 32, 32, 3)`", "b64", "0. Äpfel")
    )
    assert r"2. \*plain\*" in text


def test_metrics_and_data_stand_in_the_card(tmp_path):
    path = write_model_card(
        tmp_path,
        RECORD,
        evaluation_summary={"accuracy": 0.9, "loss": float("nan"), "pictures": 12, "names": ["a"]},
        data_fingerprint="abc",
    )
    (entry,) = yaml.safe_load(path.read_text().split("---\n")[1])["model-index"]
    (result,) = entry["results"]
    assert result["dataset"]["name"] == "abc"
    assert result["metrics"] == [
        {"type": "accuracy", "value": 0.9},
        {"type": "pictures", "value": 12.0},
    ]
    assert "| accuracy | 0.9 |" in path.read_text()


@pytest.mark.usefixtures("full_disk")
def test_a_card_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = write_model_card(tmp_path, RECORD)
    before = path.read_text()
    names = tuple(f"class {index}" for index in range(10_000))
    with pytest.raises(ExportError, match="could not be written"):
        write_model_card(tmp_path, dataclasses.replace(RECORD, class_names=names))
    assert [file.read_text() for file in tmp_path.iterdir()] == [before]
