"""Which batches XLA compiles, and that nobody sees it in the numbers."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfembloss import kernels, losses, miners

LOSSES = {
    "label": (losses.TripletMarginLoss(swap=True), ()),
    "columns": (losses.MultipleNegativesRankingLoss(similarity="euclidean"), (2,)),
    "mined": (losses.NTXentLoss(miner=miners.DistanceWeightedMiner()), ()),
}


def by_xla(function, *arguments):
    """Whether XLA compiles a kernel of this function for these arguments."""
    found = []

    @kernels.compiled
    def kernel(*arguments):
        found.append(kernels.in_xla())
        return function(*arguments)

    kernel(*arguments)
    return found[-1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        *((rows, False) for rows in (0, 1, 7, 11, 137, 1999)),
        *((rows, True) for rows in (8, 12, 32, 100, 500, 2048, 2049)),
    ],
)
def test_usual_numbers_of_rows_are_compiled(rows, expected):
    assert by_xla(tf.identity, tf.zeros([rows, 3])) == expected


def test_large_tensors_are_compiled():
    first = lambda x, y: x  # noqa: E731
    assert not by_xla(first, tf.zeros([7, 3]), tf.zeros([3, 2**20]))
    assert by_xla(first, tf.zeros([7, 3]), tf.zeros([3, 2**21]))


def test_a_kernel_in_a_kernel_is_a_part_of_it():
    inner = kernels.compiled(lambda x: tf.constant(kernels.in_xla()))
    outer = kernels.compiled(lambda x: inner(x[:8]))  # of rows which are usual
    assert not outer(tf.zeros([11, 3]))
    assert outer(tf.zeros([8, 3]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_size_costs_nothing_where_it_is_rare(name, monkeypatch):
    """Sizes that come once; the usual ones, of which there are few, are compiled."""
    loss, columns = LOSSES[name]
    compiled = []
    choose = kernels._use_xla

    def noted(arguments):
        use_xla = choose(arguments)
        compiled.append(use_xla)
        return use_xla

    monkeypatch.setattr(kernels, "_use_xla", noted)
    x = np.random.default_rng(0).normal(size=[200, *columns, 4])
    y = np.arange(200) % 50
    assert not any(compiled)
    sizes = [size for size in range(1, 201) if size not in kernels._USUAL_ROWS]
    assert len(sizes) > 180
    for size in sizes[::20]:
        loss(y[:size], x[:size])
    assert compiled and not any(compiled)
    loss(y[:16], x[:16])
    assert any(compiled)


@pytest.mark.parametrize("name", LOSSES)
def test_the_choice_does_not_show(name, monkeypatch):
    """One value and gradient, whether sizes are known and whatever XLA compiles."""
    loss, columns = LOSSES[name]
    rows = {
        size: np.random.default_rng(size).normal(size=[size, *columns, 4]).astype("float32")
        for size in (11, 12)
    }

    def run(y, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(y, x)
        return value, tape.gradient(value, x)

    specs = [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, *columns, 4])]
    graph = tf.function(run, input_signature=specs)
    whole = tf.function(run, input_signature=specs, jit_compile=True)
    results = []
    for way, (size, x) in itertools.product((run, graph, whole), rows.items()):
        results.append((size, way(tf.constant(np.arange(size) % 3), tf.constant(x))))
    for size, (value, gradient) in results:
        expected = next(of for rows, of in results if rows == size)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [[0, 0], [3, 2**40 + 5], [2**62, -7]])
def test_random_numbers_are_those_of_tensorflow(seed):
    draw = lambda seed: kernels.uniform([2000], seed, tf.float32)  # noqa: E731
    expected = draw(tf.constant(seed, tf.int64)).numpy()
    drawn = tf.function(draw, jit_compile=True)(tf.constant(seed, tf.int64))
    np.testing.assert_array_equal(drawn, expected)
    assert 0 <= expected.min() < 0.01 and 0.99 < expected.max() < 1
    assert abs(expected.mean() - 0.5) < 0.03
