"""What holds for every loss: each test here runs over all of `cases.CASES`."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, ONE_OF_EACH_KIND
from goldens import kernels, plain_kernels, value_and_gradient  # noqa: F401

from tfembloss import losses, miners

# The formulas are checked as plain TensorFlow, and what XLA makes of them against that:
# it takes a second or two for every kernel, dtype and shape.
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_loss
@pytest.mark.parametrize("num_rows", [1, 2, 9])
def test_values_are_the_formulas(case, num_rows):
    y_true, y_pred = case.inputs(num_rows)
    values = case.make(reduction=None, dtype="float64")(y_true, y_pred)
    np.testing.assert_allclose(values, case.oracle(y_true, y_pred), rtol=1e-9, atol=1e-12)


@every_loss
def test_gradient_is_the_slope_of_the_oracle(case):
    y_true, y_pred = case.inputs(5)
    _, gradient = value_and_gradient(case.make(dtype="float64"), y_true, y_pred)
    oracle = case.oracle
    if case.has_constants:
        oracle = functools.partial(oracle, constant=y_pred)
    slope, step = np.zeros_like(y_pred), 1e-6
    for index in np.ndindex(y_pred.shape):
        for sign in (1, -1):
            moved = y_pred.copy()
            moved[index] += sign * step
            slope[index] += sign * oracle(y_true, moved).mean() / (2 * step)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


def _keep(x):
    return x


BATCHES = {
    "as they are": _keep,
    "one row": lambda x: x[:1],
    "all rows equal": np.ones_like,
    "zero rows": np.zeros_like,
    "one zero row": lambda x: x * (np.arange(len(x)) > 0).reshape(-1, *[1] * (x.ndim - 1)),
    "duplicates": lambda x: np.repeat(x[: len(x) // 3], 3, axis=0),
    "no rows": lambda x: x[:0],
    "huge": lambda x: x * 1e8,
    "tiny": lambda x: x * 1e-12,
}


# Compiling one takes a second or two, with its gradient. The others are lowered in
# test_programs, and one golden of each is compiled in test_goldens.
IN_XLA = [
    *ONE_OF_EACH_KIND,
    "MultipleNegativesRankingLoss-manhattan",
    "MultipleNegativesRankingLoss-margins",
    "TripletMarginLoss-smooth",
    "TripletMarginLoss-angular-mined",
]
SOME_KINDS = ONE_OF_EACH_KIND[::3]


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "xla") for name in IN_XLA]
    + [(name, "eager") for name in ONE_OF_EACH_KIND]
    + [(name, "graph") for name in ONE_OF_EACH_KIND[::2]]  # test_grad_cache has them all
    + [(name, "graph under a tape") for name in SOME_KINDS],
)
def test_every_mode_is_finite_and_agrees(name, mode):
    """Also on degenerate batches, and with a batch size that is unknown when traced."""
    case = CASES[name]
    loss = call = case.make()
    # A kernel for ten rows is XLA's in a graph as well, one for nine TensorFlow's own.
    y_true, y_pred = case.inputs(10 if mode == "graph" else 9)
    specs = [
        tf.TensorSpec([None, *y_true.shape[1:]], y_true.dtype),
        tf.TensorSpec([None, *y_pred.shape[1:]], "float32"),
    ]
    if mode == "graph under a tape":  # as the user's own, through AutoGraph
        call = tf.function(loss, input_signature=specs)

    def run(y_true, y_pred):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = call(y_true, y_pred)
        return value, tape.gradient(value, y_pred)

    if mode in ("graph", "xla"):
        run = tf.function(run, specs, autograph=False, jit_compile=mode == "xla")
    changes = dict(BATCHES)
    if mode == "xla" and name not in SOME_KINDS:
        del changes["one row"], changes["no rows"]  # for which all is compiled again
    for batch, change in changes.items():
        rows = change(y_pred).astype("float32")
        ids = y_true[: len(rows)]
        with kernels(compiled=True):
            value, gradient = run(tf.constant(ids), tf.constant(rows))
        assert np.isfinite(value), batch
        assert np.isfinite(gradient).all(), batch
        assert len(rows) or value == 0
        if change is _keep or len(rows) == 1:  # elsewhere rounding decides
            expected = value_and_gradient(loss, ids, rows)
            # A small difference of logits of 20 is exact to their own last places.
            np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=5e-6)
            np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)


@every_loss
def test_reductions_and_weights(case):
    y_true, y_pred = case.inputs(9)
    weights = np.arange(9.0)  # the first row weighs nothing
    values = case.make(reduction=None, dtype="float64")(y_true, y_pred).numpy()
    assert values.shape == (9,)
    weighted = values * weights
    of_batch, of_weights = weighted.mean(), weighted.sum() / weights.sum()
    for reduction, given, expected in (
        ("sum_over_batch_size", None, values.mean()),
        ("sum_over_batch_size", weights[:, None], of_batch),
        ("sum", weights, weighted.sum()),
        ("mean", weights, of_batch),
        ("mean_with_sample_weight", weights, of_weights),
    ):
        loss = case.make(reduction=reduction, dtype="float64")
        value = loss(y_true, y_pred, sample_weight=given)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@every_loss
def test_order_of_rows_does_not_matter(case):
    if case.by_order:
        pytest.skip(case.by_order)
    y_true, y_pred = case.inputs(9)
    loss = case.make(reduction=None, dtype="float64")
    order = np.random.default_rng(1).permutation(9)
    np.testing.assert_allclose(
        loss(y_true[order], y_pred[order]), loss(y_true, y_pred).numpy()[order], rtol=1e-9
    )


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_embeddings_are_computed_in_float32(case, dtype):
    y_true, y_pred = case.inputs(9)
    half = tf.cast(y_pred, dtype)
    value = case.make()(y_true, half)
    assert value.dtype == tf.float32
    np.testing.assert_array_equal(value, case.make()(y_true, tf.cast(half, "float32")))


@every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_embedding_shows(case, bad):
    y_true, y_pred = case.inputs(9)
    y_pred.flat[0] = bad
    assert not np.isfinite(case.make()(y_true, y_pred))


@pytest.mark.parametrize(
    ("name", "power"),
    [(name, 20) for name in CASES]
    + [(name, power) for power in (19, 30, 37) for name in ONE_OF_EACH_KIND],
)
def test_distances_that_overflow_show(name, power):
    """Never a finite loss with a gradient that is not, nor one that only seems to be 0."""
    case = CASES[name]
    y_true, y_pred = case.inputs(9)
    with np.errstate(over="ignore"):
        large = (y_pred * 10.0**power).astype("float32")
    for rows in (
        large,
        np.where(np.arange(y_pred.size).reshape(y_pred.shape) == 5, large, y_pred),
    ):
        value, gradient = value_and_gradient(case.make(), y_true, rows.astype("float32"))
        assert np.isfinite(gradient).all() or not np.isfinite(value)
        if value == 0:
            expected = case.make(dtype="float64")(y_true, rows.astype("float64"))
            assert expected == 0


@pytest.mark.parametrize("distance", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("loss", [
    losses.GeneralizedLiftedStructureLoss, losses.BatchHardTripletLoss,
    functools.partial(losses.SupConLoss, miner=miners.BatchHardMiner()),
    functools.partial(losses.TripletMarginLoss, miner=miners.AngularMiner()),
])  # fmt: skip
def test_distances_that_overflow_show_in_any_distance(loss, distance):
    y_true, y_pred = CASES["BatchAllTripletLoss"].inputs(9)
    loss = loss(distance=distance)
    assert not np.isfinite(loss(y_true, (y_pred * 1e20).astype("float32")))
    assert np.isfinite(loss(y_true, (y_pred * 1e8).astype("float32")))


@every_loss
def test_serialises(case):
    y_true, y_pred = case.inputs(9)
    loss = case.make(reduction="sum", dtype="float64", name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    np.testing.assert_array_equal(again(y_true, y_pred), loss(y_true, y_pred))


@every_loss
def test_unknown_dtype_is_refused(case):
    with pytest.raises(ValueError, match=r"float32.*float64.*bfloat16"):
        case.make(dtype="bfloat16")
