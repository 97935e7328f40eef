import resource

import goldens
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfembloss import distances, layers, losses, miners
from tfembloss.distances import LpDistance

L3 = LpDistance(3, normalize_embeddings=False)
NAMES = (
    "cosine",
    "dot",
    "squared_euclidean",
    "euclidean",
    "normalized_euclidean",
    "manhattan",
    "angular",
    L3,
)
FURTHER = (  # whose forms are those of others
    "hamming",
    "snr",
    LpDistance(),
    LpDistance(1),
    LpDistance(2, power=2),
    LpDistance(1.5, power=2, normalize_embeddings=False),
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
    "angular": lambda a, b: np.arccos(unit(a) @ unit(b)),
    L3: lambda a, b: (np.abs(a - b) ** 3).sum() ** (1 / 3),
    "hamming": lambda a, b: ((a > 0) != (b > 0)).sum(),
    "snr": lambda a, b: np.var(unit(a) - unit(b)) / np.var(unit(a)),
    FURTHER[2]: lambda a, b: np.linalg.norm(unit(a) - unit(b)),
    FURTHER[3]: lambda a, b: np.abs(a / np.abs(a).sum() - b / np.abs(b).sum()).sum(),
    FURTHER[4]: lambda a, b: ((unit(a) - unit(b)) ** 2).sum(),
    FURTHER[5]: lambda a, b: (np.abs(a - b) ** 1.5).sum() ** (2 / 1.5),
}


def points(rows, dim=7, seed=0):
    return np.random.default_rng(seed).normal(size=[rows, dim])


@pytest.mark.parametrize("name", NAMES + FURTHER)
def test_both_forms_are_the_formula(name):
    a, b = points(5), points(8, seed=1)
    distance = distances.get(name)
    expected = np.array([[FORMULAS[name](x, y) for y in b] for x in a])
    np.testing.assert_allclose(distance.pairwise(a, b), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        distance.rowwise(a[:, None], b[None]), expected, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes(name, jit_compile):
    distance = distances.get(name)
    upstream = tf.constant(points(4, 5, seed=2))
    run = tf.function(
        lambda a, b: tf.reduce_sum(upstream * distance.pairwise(a, b)),
        jit_compile=jit_compile,
    )
    assert_slopes(run)


def assert_slopes(run):
    arguments = [tf.constant(points(4)), tf.constant(points(5, seed=1))]
    exact, numeric = tf.test.compute_gradient(run, arguments, delta=1e-6)
    for got, expected in zip(exact, numeric, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distance", ["angular", LpDistance(3, power=2)])
def test_gradients_row_by_row_are_the_slopes(distance):
    rowwise, upstream = distances.get(distance).rowwise, tf.constant(points(4, 5, seed=2))
    assert_slopes(
        tf.function(lambda a, b: tf.reduce_sum(upstream * rowwise(a[:, None], b)))
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES + FURTHER[1:])
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
        if name in ("cosine", "normalized_euclidean", "angular", LpDistance()):
            np.testing.assert_array_equal(gradient[1], 0)  # a zero row has no direction
    if name not in ("cosine", "dot"):
        equal = distances.get(name).pairwise(a, a).numpy()
        own = np.delete(np.diag(equal), 1)  # a zero row is at a right angle to itself
        assert own.max() == 0 and equal[0, 2] == 0


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


@pytest.mark.parametrize("name", NAMES + FURTHER)
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


@pytest.mark.parametrize("case", goldens.ROWS)
@pytest.mark.parametrize("name, distance", {
    "dist_cos": "cosine", "dist_dot_raw": "dot", "dist_snr": "snr",
    "dist_l1": LpDistance(1), "dist_l1raw": LpDistance(1, normalize_embeddings=False),
    "dist_l2": LpDistance(), "dist_l2sq": LpDistance(power=2),
    "dist_raw": LpDistance(normalize_embeddings=False),
}.items())  # fmt: skip
def test_equals_the_peer(name, distance, case):
    # Ours of a similarity is its negative, or 1 minus it; the peer's rows are not at
    # a distance of exactly 0 from themselves.
    golden = goldens.arrays("pytorch_metric_learning", name, case)
    values = distances.get(distance).pairwise(*[golden["embeddings"]] * 2).numpy()
    expected = {"dist_cos": 1 - golden["mat"], "dist_dot_raw": -golden["mat"]}
    np.testing.assert_allclose(
        values, expected.get(name, golden["mat"]), rtol=1e-9, atol=1e-7
    )


def test_an_angle_near_0_and_pi():
    a = tf.constant([[1.0, 0.0]])
    for angle, exact in [(1e-6, True), (1e-2, False), (np.pi - 1e-2, False)]:
        b = tf.constant([[np.cos(angle), np.sin(angle)]], "float32")
        for form in (distances.angular.rowwise, distances.angular.pairwise):
            if form == distances.angular.rowwise or not exact:
                np.testing.assert_allclose(np.squeeze(form(a, b)), angle, rtol=2e-3)
    opposite = tf.constant([[-2.0, 0.0]])
    for form in (distances.angular.rowwise, distances.angular.pairwise):
        with tf.GradientTape() as tape:
            tape.watch(opposite)
            value = form(a, opposite)
        np.testing.assert_allclose(np.squeeze(value), np.pi, rtol=1e-6)
        np.testing.assert_array_equal(tape.gradient(value, opposite), [[0, 0]])


def test_norms_of_any_length():
    a, b = points(5).astype("float32"), points(8, seed=1).astype("float32")
    for p in (1.5, 40.0):
        distance = LpDistance(p, normalize_embeddings=False).forms
        expected = distance.pairwise(a, b)
        for size in map(np.float32, (1e-30, 1e30)):
            np.testing.assert_allclose(
                distance.pairwise(size * a, size * b) / size, expected, rtol=1e-5
            )


def test_a_loss_of_an_lp_distance_is_saved():
    loss = losses.TripletMarginLoss(
        distance=LpDistance(3), miner=miners.BatchHardMiner(distance=LpDistance(1))
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert (again.distance, again.miner) == (
        LpDistance(3),
        miners.BatchHardMiner(LpDistance(1)),
    )
    ids, rows = np.arange(12) % 3, points(12).astype("float32")
    np.testing.assert_array_equal(again(ids, rows), loss(ids, rows))


@pytest.mark.parametrize("options, message", [
    ({"p": 0.5}, "`p` must be a finite number >= 1. Received: p=0.5"),
    ({"p": float("inf")}, "`p` must be a finite number >= 1"),
    ({"power": 0}, "`power` must be a number > 0"),
    ({"normalize_embeddings": 1}, "`normalize_embeddings` must be True or False"),
])  # fmt: skip
def test_bad_options_of_lp_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LpDistance(**options)


def test_packed_codes_are_those_of_the_signs():
    a, b = points(4, dim=24), points(5, dim=24, seed=1)
    expected = distances.hamming.pairwise(a, b)
    packed = [np.packbits(x > 0, axis=1) for x in (a, b)]
    forms = {
        "packed": packed,
        "bits": [(x > 0).astype("uint8") for x in (a, b)],
        "booleans": [x > 0 for x in (a, b)],
        "signs": [np.sign(x).astype("int32") for x in (a, b)],
    }
    for codes in forms.values():
        a, b = map(tf.constant, codes)
        np.testing.assert_array_equal(distances.hamming.pairwise(a, b), expected)
        np.testing.assert_array_equal(distances.hamming.rowwise(a[:, None], b), expected)
    with pytest.raises(ValueError, match=r"codes.view\('uint8'\)"):
        distances.hamming.pairwise(*(x.view("int8") for x in packed))


def test_hamming_trains_nothing():
    loss = losses.SupConLoss(distance="hamming")
    ids, rows = np.arange(12) % 3, tf.constant(points(12))
    assert np.isfinite(loss(ids, rows))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = loss(ids, rows)
    with pytest.raises(ValueError, match="'hamming' has no gradient"):
        tape.gradient(value, rows)


def test_a_mahalanobis_layer_is_the_distance_of_its_matrix(tmp_path):
    a, b = points(5), points(4, seed=1)
    layer = layers.Mahalanobis(dtype="float64")
    expected = distances.euclidean.pairwise(a, b)
    np.testing.assert_allclose(distances.euclidean.pairwise(layer(a), layer(b)), expected)
    narrow = layers.Mahalanobis(3, "glorot_uniform", keras.regularizers.L2(0.1))
    model = keras.Sequential([keras.Input([7]), narrow])
    got = distances.euclidean.pairwise(*(model(x.astype("float32")) for x in (a, b)))
    matrix = narrow.matrix.numpy().astype("float64")
    assert (
        np.linalg.eigvalsh(matrix).min() > -1e-6
        and np.linalg.matrix_rank(matrix, 1e-5) == 3
    )
    gap = a[:, None] - b
    np.testing.assert_allclose(
        got, np.sqrt(np.einsum("bnd,de,bne->bn", gap, matrix, gap)), rtol=1e-4
    )
    assert model.losses and model.output_shape == (None, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(points(5)), model(points(5)))
    with pytest.raises(ValueError, match="`units` must be an integer >= 1, or None"):
        layers.Mahalanobis(0)
    with pytest.raises(ValueError, match="Expected a layer that is built"):
        _ = layers.Mahalanobis(3).matrix


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Unknown"):
        distances.get(distances.dot)  # which could not be saved
    with pytest.raises(ValueError, match=r"'cosine'.*'squared_euclidean'.*distance='cos'"):
        distances.get("cos")
