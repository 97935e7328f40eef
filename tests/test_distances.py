import resource

import goldens
import numpy as np
import pytest
import tensorflow as tf

from tfembloss import distances

NAMES = (
    "cosine",
    "dot",
    "squared_euclidean",
    "euclidean",
    "normalized_euclidean",
    "manhattan",
)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


FORMULAS = {
    "cosine": lambda a, b: 1 - unit(a) @ unit(b),
    "dot": lambda a, b: -(a @ b),
    "squared_euclidean": lambda a, b: ((a - b) ** 2).sum(),
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
    "normalized_euclidean": lambda a, b: np.linalg.norm(unit(a) - unit(b)),
    "manhattan": lambda a, b: np.abs(a - b).sum(),
}


def points(rows, dim=7, seed=0):
    return np.random.default_rng(seed).normal(size=[rows, dim])


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_formula(name):
    a, b = points(5), points(8, seed=1)
    distance = distances.get(name)
    expected = np.array([[FORMULAS[name](x, y) for y in b] for x in a])
    np.testing.assert_allclose(distance.pairwise(a, b), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        distance.rowwise(a[:, None], b[None]), expected, rtol=1e-9, atol=1e-12
    )


def of_rows(name, order=None):
    """Distances of all rows, brought to length 1 in the norm of this order."""

    def pairwise(x):
        x = x if order is None else x / tf.norm(x, order, axis=1, keepdims=True)
        return distances.get(name).pairwise(x, x)

    return pairwise


PEERS = {
    "cos": lambda x: 1 - of_rows("cosine")(x),
    "dot_raw": lambda x: -of_rows("dot")(x),
    "l1": of_rows("manhattan", order=1),
    "l1raw": of_rows("manhattan"),
    "l2": of_rows("normalized_euclidean"),
    "l2sq": of_rows("squared_euclidean", order=2),
    "raw": of_rows("euclidean"),
    "snr": of_rows("snr"),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("case", goldens.ROWS)
def test_equals_the_peer(name, case):
    golden = goldens.arrays("pytorch_metric_learning", f"dist_{name}", case)
    found = PEERS[name](tf.constant(golden["embeddings"]))
    # Its own euclidean distance of two equal rows is up to 2e-8, here exactly 0.
    np.testing.assert_allclose(found, golden["mat"], rtol=1e-9, atol=5e-8)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes(name, jit_compile):
    distance = distances.get(name)
    upstream = tf.constant(points(4, 5, seed=2))
    run = tf.function(
        lambda a, b: tf.reduce_sum(upstream * distance.pairwise(a, b)),
        jit_compile=jit_compile,
    )
    arguments = [tf.constant(points(4)), tf.constant(points(5, seed=1))]
    exact, numeric = tf.test.compute_gradient(run, arguments, delta=1e-6)
    for got, expected in zip(exact, numeric, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_equal_and_zero_rows(name, dtype):
    a = points(6, dim=300).astype(dtype)
    a[1], a[2] = 0, a[0]
    for form in (
        lambda a: distances.get(name).pairwise(a, a),
        lambda a: distances.get(name).rowwise(a, a),
    ):
        x = tf.constant(a)
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = form(x)
        gradient = tape.gradient(values, x).numpy()
        assert np.isfinite(values).all() and np.isfinite(gradient).all()
        if name in ("cosine", "normalized_euclidean"):
            np.testing.assert_array_equal(gradient[1], 0)  # a zero row has no direction
    if "euclidean" in name or name == "manhattan":
        equal = distances.get(name).pairwise(a, a).numpy()
        assert np.diag(equal).max() == 0 and equal[0, 2] == 0


@pytest.mark.parametrize("size", [1e-30, 1e-13, 1e20, 1e30])
def test_directions_of_any_length(size):
    a, b = points(5).astype("float32"), points(8, seed=1).astype("float32")
    for name in ("cosine", "normalized_euclidean"):
        distance = distances.get(name)
        np.testing.assert_allclose(
            distance.pairwise(a * np.float32(size), b), distance.pairwise(a, b), atol=1e-6
        )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name, jit_compile):
    @tf.function(input_signature=[tf.TensorSpec([None, 4])] * 2, jit_compile=jit_compile)
    def run(a, b):
        with tf.GradientTape() as tape:
            tape.watch((a, b))
            values = distances.get(name).pairwise(a, b)
        return values, tape.gradient(values, (a, b))

    for shape in [(0, 3), (3, 0), (0, 0)]:
        rows = [tf.zeros([size, 4]) for size in shape]
        values, gradients = run(*rows)
        assert tuple(values.shape) == shape
        for row, gradient in zip(rows, gradients, strict=True):
            np.testing.assert_array_equal(gradient, row)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_show(name, bad):
    a, b = points(3), points(4)
    a[1, 2] = bad
    values = distances.get(name).pairwise(a, b).numpy()
    assert not np.isfinite(values[1]).any()
    assert np.isfinite(values[[0, 2]]).all()


def test_the_price_of_the_matrix_product():
    # Rows of length 1 that are 1e-3 apart or nearer count as equal in float32, because
    # |a|^2 + |b|^2 - 2 a.b cannot tell: row by row, and in float64, they are told apart.
    a = unit(points(1, dim=256))
    direction = unit(points(1, dim=256, seed=1))
    for gap, dtype, error in [
        (1e-3, "float64", 1e-6),
        (1e-6, "float64", 1e-3),
        (1e-2, "float32", 2e-2),
        (1e-3, "float32", 1.0),
    ]:
        b = (a + gap * direction).astype(dtype)
        value = distances.euclidean.pairwise(a.astype(dtype), b).numpy().item()
        assert abs(value - gap) <= error * gap
        rowwise = distances.euclidean.rowwise(a.astype(dtype), b).numpy().item()
        assert abs(rowwise - gap) <= 2e-3 * gap
    assert value == 0


def test_manhattan_does_not_hold_the_cube():
    # [1500, 1500, 300] float32 would be 2.7 GB, and forward and backward need it twice.
    a = tf.constant(points(1500, dim=300).astype("float32"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tf.GradientTape() as tape:
        tape.watch(a)
        value = distances.manhattan.pairwise(a, a + 1)
    assert np.isfinite(tape.gradient(value, a)).all()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 2**20


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Unknown"):
        distances.get(distances.dot)  # which could not be saved
    with pytest.raises(ValueError, match=r"'cosine'.*'squared_euclidean'.*distance='cos'"):
        distances.get("cos")
