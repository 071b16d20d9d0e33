"""Batch norm that weights pictures and shares statistics, against Keras's own on the whole batch.

The reference is `keras.layers.BatchNormalization` on one device, given the pictures that count and
nothing else.
"""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.batch_norm import BatchNorm
from resnet_keras.batch_statistics import weighting

CHANNELS = 5
PICTURES = 31
OPTIONS = {"momentum": 0.9, "epsilon": 1e-5}


def make(kind, *, axis=-1, shape=(None, 4, 4, CHANNELS), **options):
    """Returns a layer with random weights, the same for each kind."""
    layer = kind(axis=axis, **OPTIONS | options)
    layer.build(shape)
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 1.5, shape[axis]) for _ in range(4)])
    return layer


def normal(*shape):
    return np.random.default_rng(1).normal(2, 3, shape).astype("float32")


def step(layer, inputs, weights=None):
    """Returns outputs, three gradients of a weighted loss, and both moving statistics."""
    rank = len(inputs.shape)
    shares = tf.ones(tf.shape(inputs)[:1]) if weights is None else weights
    shares = tf.reshape(shares, [-1] + [1] * (rank - 1))
    with tf.GradientTape() as tape, weighting(weights):
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(shares * tf.cast(outputs, tf.float32) ** 3)
    gradients = tape.gradient(loss, [inputs, layer.gamma, layer.beta])
    statistics = [tf.identity(each.value) for each in (layer.moving_mean, layer.moving_variance)]
    return [outputs, *gradients, *statistics]


def numbers(tensors):
    return [np.asarray(tf.cast(each, tf.float32)) for each in tensors]


def expected_of(inputs, **options):
    layer = make(keras.layers.BatchNormalization, shape=(None, *inputs.shape[1:]), **options)
    return numbers(step(layer, tf.constant(inputs)))


def assert_close(found, expected, *, tolerance=1e-5):
    """Compares what `step` returns, or the first of it."""
    names = ("outputs", "dx", "dgamma", "dbeta", "mean", "variance")
    for name, ours, theirs in zip(names, found, expected, strict=False):
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, err_msg=name)


# Rows of 9 that count; the others hold large numbers that would show.
COUNTED = np.array([1, 1, 0, 1, 1, 1, 0, 1, 0], "float32")


def filled(inputs):
    return np.where(COUNTED.reshape(-1, *[1] * (inputs.ndim - 1)) > 0, inputs, 1e3)


@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 4, 4, CHANNELS), -1), ((9, CHANNELS), -1), ((9, CHANNELS, 4, 4), 1)]
)
@pytest.mark.parametrize("synchronized", [False, True])
def test_pictures_of_weight_zero_do_not_count(shape, axis, synchronized):
    inputs = filled(normal(*shape)).astype("float32")
    layer = make(BatchNorm, axis=axis, shape=(None, *shape[1:]), synchronized=synchronized)
    outputs, dx, *others = numbers(step(layer, tf.constant(inputs), tf.constant(COUNTED)))
    rows = COUNTED > 0
    assert_close([outputs[rows], dx[rows], *others], expected_of(inputs[rows], axis=axis))
    np.testing.assert_array_equal(dx[~rows], 0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_weight_counts_like_that_many_copies(compiled):
    inputs, weights = normal(4, 4, 4, CHANNELS), np.array([1, 3, 0, 2], "float32")
    layer = make(BatchNorm)
    run = tf.function(step, jit_compile=compiled)
    found = numbers(run(layer, tf.constant(inputs), tf.constant(weights)))
    copies = weights.astype(int)
    outputs, dx, *others = expected_of(np.repeat(inputs, copies, axis=0))
    counted, first = copies > 0, [0, 1, 4]
    dx = dx[first] * weights[counted].reshape(-1, 1, 1, 1)
    found = [found[0][counted], found[1][counted], *found[2:]]
    assert_close(found, [outputs[first], dx, *others])


def test_without_weights_nothing_changes():
    inputs = tf.constant(normal(8, 4, 4, CHANNELS))
    plain = numbers(step(make(BatchNorm), inputs))
    layer = make(BatchNorm)
    with weighting(tf.zeros(8)), weighting(None):
        again = numbers(step(layer, inputs))
    for ours, theirs in zip(again, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_batch_that_only_fills_gives_finite_values_and_moves_nothing():
    layer = make(BatchNorm)
    before = [np.copy(weight) for weight in layer.get_weights()]
    found = numbers(step(layer, tf.constant(normal(4, 4, 4, CHANNELS)), tf.zeros(4)))
    assert all(np.isfinite(each).all() for each in found)
    for weight, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_gradients_are_finite_where_nothing_varies():
    found = numbers(step(make(BatchNorm), tf.ones((4, 4, 4, CHANNELS)), tf.ones(4)))
    assert all(np.isfinite(each).all() for each in found)


def test_no_digits_are_lost_where_the_mean_is_large_beside_the_deviation():
    """About 0, float32 squares of 1000 would be off by 0.06, 600 times this variance."""
    inputs = (1000 + 0.01 * np.random.default_rng(1).normal(size=(9, 8, 8, CHANNELS))).astype("f")
    layer = make(BatchNorm, momentum=0.0, epsilon=1e-9)
    layer.set_weights([np.full(CHANNELS, value) for value in (1.0, 0.0, 0.0, 1.0)])
    outputs, *_, mean, variance = numbers(step(layer, tf.constant(inputs), tf.constant(COUNTED)))
    counted = inputs[COUNTED > 0].astype("float64")
    np.testing.assert_allclose(variance, counted.var((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(mean, counted.mean((0, 1, 2)), rtol=1e-7)
    expected = (counted - counted.mean((0, 1, 2))) / counted.std((0, 1, 2))
    np.testing.assert_allclose(outputs[COUNTED > 0], expected, atol=0.01)


def test_bfloat16_takes_its_statistics_in_float32():
    inputs = filled(normal(9, 4, 4, CHANNELS))
    inputs = tf.cast(inputs, tf.bfloat16)
    layer = make(BatchNorm, dtype="mixed_bfloat16")
    results = step(layer, inputs, tf.constant(COUNTED))
    dtypes = [each.dtype.name for each in results]
    assert dtypes == ["bfloat16", "bfloat16", "float32", "float32", "float32", "float32"]
    outputs, dx, *others = numbers(results)
    rows = COUNTED > 0
    expected = expected_of(np.asarray(tf.cast(inputs, tf.float32))[rows])
    assert_close([outputs[rows], dx[rows], *others], expected, tolerance=0.02)
    for found, exact in zip(others[2:], expected[4:], strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("cause", ["mask", "renorm"])
def test_what_cannot_be_weighted_is_refused(cause):
    layer = BatchNorm(renorm=cause == "renorm")
    mask = tf.ones((4, 3)) if cause == "mask" else None
    with weighting(tf.ones(4)), pytest.raises(ValueError, match="neither a mask nor `renorm"):
        layer(tf.ones((4, 3, CHANNELS)), training=True, mask=mask)


def test_being_synchronized_survives_a_file(tmp_path):
    layer = BatchNorm(synchronized=True)
    model = keras.Sequential([keras.Input((4, 4, CHANNELS)), layer])
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").layers[0].synchronized
    assert not BatchNorm.from_config(BatchNorm().get_config()).synchronized


def child(code, *arguments, **environment):
    """Starts Python on the code; TensorFlow takes devices and clusters only when it starts."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*children):
    try:
        for each in children:
            output, _ = each.communicate(timeout=300)
            assert each.returncode == 0, output[-3000:]
    finally:
        for each in children:
            each.kill()


# What two replicas see: rows of the pictures for each, then what only fills. The last step comes
# after one that leaves the replicas with moving statistics of their own.
PARTS = {
    "uneven": ([*range(16)], [*range(16, PICTURES)]),
    "one_empty": ([*range(16)], []),
    "own": ([*range(16)], [*range(16, PICTURES)]),
    "own_one_empty": ([*range(16)], []),
    "after_own": ([*range(16)], [*range(16, PICTURES)]),
}


def part(case, replica):
    """Returns 16 pictures and their weights; ones that only fill are 0."""
    rows, inputs = PARTS[case][replica], np.zeros((16, 4, 4, CHANNELS), "float32")
    inputs[: len(rows)] = normal(PICTURES, 4, 4, CHANNELS)[rows]
    return inputs, (np.arange(16) < len(rows)).astype("float32")


def run_replicas(strategy, layer, case):
    """Returns the results of `step` of each replica of this process."""

    def values(n):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(part(case, context.replica_id_in_sync_group)[n])
        )

    run = tf.function(lambda x, w: strategy.run(step, args=(layer, x, w)))
    results = run(values(0), values(1))
    return list(zip(*map(strategy.experimental_local_results, results), strict=True))


def mirrored(folder):
    """Runs every case on two devices of this process, and writes what each replica found."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for case in PARTS:
        with strategy.scope():
            layer = make(BatchNorm, synchronized=not case.startswith("own"))
        if case == "after_own":
            layer.synchronized = False
            run_replicas(strategy, layer, "own")
            layer.synchronized = True
        for replica, found in enumerate(run_replicas(strategy, layer, case)):
            np.savez(f"{folder}/{case}_{replica}.npz", *numbers(found))


def worker(folder):
    """Runs one case as one of two processes."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        layer = make(BatchNorm, synchronized=True)
    (found,) = run_replicas(strategy, layer, "uneven")
    replica = strategy.cluster_resolver.task_id
    np.savez(f"{folder}/uneven_{replica}.npz", *numbers(found))


def read(folder, case):
    """Returns for each replica its results, without the rows that only fill."""
    found = []
    for replica in range(2):
        with np.load(folder / f"{case}_{replica}.npz") as file:
            outputs, dx, *others = file.values()
        assert np.isfinite(outputs).all()
        count = len(PARTS[case][replica])
        np.testing.assert_array_equal(dx[count:], 0)
        found.append([outputs[:count], dx[:count], *others])
    return found


def together(first, second):
    """Returns outputs and gradients of two replicas as those of one batch."""
    rows = [np.concatenate(both) for both in zip(first[:2], second[:2], strict=True)]
    return rows + [sum(both) for both in zip(first[2:4], second[2:4], strict=True)]


def assert_is_one_batch(folder, case):
    """Compares two replicas with one process that has all pictures."""
    first, second = read(folder, case)
    rows = [row for replica in PARTS[case] for row in replica]
    expected = expected_of(normal(PICTURES, 4, 4, CHANNELS)[rows])
    assert_close([*together(first, second), *first[4:]], expected)
    for ours, theirs in zip(first[4:], second[4:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    code = "import sys; from tests.test_batch_norm import mirrored; mirrored(sys.argv[1])"
    finish(child(code, folder))
    return folder


@pytest.mark.parametrize("case", ["uneven", "one_empty"])
def test_two_replicas_equal_one_process_with_the_whole_batch(two_replicas, case):
    assert_is_one_batch(two_replicas, case)


def test_replicas_share_a_batch_whatever_their_moving_statistics(two_replicas):
    expected = expected_of(normal(PICTURES, 4, 4, CHANNELS))
    assert_close(together(*read(two_replicas, "after_own")), expected)


def test_without_synchronization_each_replica_has_its_own_statistics(two_replicas):
    inputs = normal(PICTURES, 4, 4, CHANNELS)
    for rows, found in zip(PARTS["own"], read(two_replicas, "own"), strict=True):
        assert_close(found, expected_of(inputs[rows]))


def test_a_replica_without_pictures_keeps_its_statistics(two_replicas):
    (*_, mean, variance) = read(two_replicas, "own_one_empty")[1]
    *_, old_mean, old_variance = make(BatchNorm).get_weights()
    np.testing.assert_array_equal(mean, old_mean)
    np.testing.assert_array_equal(variance, old_variance)


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    with socket.socket() as first, socket.socket() as second:
        ports = []
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    code = "import sys; from tests.test_batch_norm import worker; worker(sys.argv[1])"
    finish(
        *(
            child(
                code,
                tmp_path,
                TF_CONFIG=json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": index}}
                ),
            )
            for index in range(2)
        )
    )
    assert_is_one_batch(tmp_path, "uneven")


def on_jax():
    """Compares weighted batch norm with Keras's own: outputs, gradients and moving statistics."""
    import jax

    assert keras.backend.backend() == "jax"
    inputs = filled(normal(9, 4, 4, CHANNELS)).astype("float32")
    rows = COUNTED > 0

    def results(layer, inputs, weights):
        def loss(inputs, trained):
            with weighting(weights):
                outputs, moved = layer.stateless_call(
                    trained, layer.non_trainable_variables, inputs, training=True
                )
            shares = np.ones(len(inputs)) if weights is None else weights
            return (shares[:, None, None, None] * outputs**3).sum(), (outputs, moved)

        trained = [each.value for each in layer.trainable_variables]
        run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (dx, gradients), (outputs, moved) = run(inputs, trained)
        return [np.asarray(each) for each in (outputs, dx, *gradients, *moved)]

    expected = results(make(keras.layers.BatchNormalization), inputs[rows], None)
    for synchronized in (False, True):
        layer = make(BatchNorm, synchronized=synchronized)
        outputs, dx, *others = results(layer, inputs, COUNTED)
        assert_close([outputs[rows], dx[rows], *others], expected)
    assert_close(results(make(BatchNorm, synchronized=True), inputs[rows], None), expected)


def test_jax_weights_pictures_too():
    finish(child("from tests.test_batch_norm import on_jax; on_jax()", KERAS_BACKEND="jax"))
