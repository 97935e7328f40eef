"""What holds for every loss: each test here runs over all of `cases.CASES`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES

every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def value_and_gradient(loss, y_true, y_pred, **kwargs):
    y_pred = tf.convert_to_tensor(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred, **kwargs)
    return value.numpy(), tape.gradient(value, y_pred).numpy()


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
    slope, step = np.zeros_like(y_pred), 1e-6
    for index in np.ndindex(y_pred.shape):
        for sign in (1, -1):
            moved = y_pred.copy()
            moved[index] += sign * step
            slope[index] += sign * case.oracle(y_true, moved).mean() / (2 * step)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


@every_loss
def test_eager_graph_and_xla_agree(case):
    y_true, y_pred = case.inputs(9)
    y_pred = y_pred.astype("float32")
    loss = case.make()
    results = [value_and_gradient(loss, y_true, y_pred)]
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile)
        def step(y_true, y_pred):
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred)
            return value, tape.gradient(value, y_pred)

        results.append(step(tf.constant(y_true), tf.constant(y_pred)))
    for value, gradient in results[1:]:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(gradient, results[0][1], rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_batch_size(case, jit_compile):
    loss = case.make()
    y_true, y_pred = case.inputs(9)
    y_pred = y_pred.astype("float32")
    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in (y_true, y_pred)]
    compiled = tf.function(loss, input_signature=specs, jit_compile=jit_compile)
    for num_rows in (9, 5, 1):
        rows = y_true[:num_rows], y_pred[:num_rows]
        np.testing.assert_allclose(compiled(*rows), loss(*rows), rtol=1e-5, atol=1e-6)


@every_loss
def test_reductions_and_weights(case):
    y_true, y_pred = case.inputs(9)
    weights = np.arange(9.0)  # the first row weighs nothing
    values = case.make(reduction=None, dtype="float64")(y_true, y_pred).numpy()
    assert values.shape == (9,)
    expected = {
        "sum": (values.sum(), (values * weights).sum()),
        "mean": (values.mean(), (values * weights).mean()),
        "sum_over_batch_size": (values.mean(), (values * weights).mean()),
        "mean_with_sample_weight": (
            values.mean(),
            (values * weights).sum() / weights.sum(),
        ),
    }
    for reduction, (plain, weighted) in expected.items():
        loss = case.make(reduction=reduction, dtype="float64")
        np.testing.assert_allclose(loss(y_true, y_pred), plain, rtol=1e-12)
        np.testing.assert_allclose(
            loss(y_true, y_pred, sample_weight=weights), weighted, rtol=1e-12
        )
        np.testing.assert_allclose(
            loss(y_true, y_pred, sample_weight=weights[:, None]), weighted, rtol=1e-12
        )


@every_loss
def test_order_of_rows_does_not_matter(case):
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


DEGENERATE = {
    "one row": lambda x: x[:1],
    "all rows equal": lambda x: np.ones_like(x),
    "zero rows": np.zeros_like,
    "one zero row": lambda x: x * (np.arange(len(x)) > 0).reshape(-1, *[1] * (x.ndim - 1)),
    "duplicates": lambda x: np.repeat(x[: len(x) // 3], 3, axis=0),
    "huge": lambda x: x * 1e8,
    "tiny": lambda x: x * 1e-12,
}


@every_loss
@pytest.mark.parametrize("change", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("jit_compile", [False, True])
def test_degenerate_batches_are_finite(case, change, jit_compile):
    y_true, y_pred = case.inputs(9)
    y_pred = change(y_pred).astype("float32")
    y_true = y_true[: len(y_pred)]
    run = tf.function(value_gradient_graph(case.make()), jit_compile=jit_compile)
    value, gradient = run(tf.constant(y_true), tf.constant(y_pred))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def value_gradient_graph(loss):
    def run(y_true, y_pred):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred)
        return value, tape.gradient(value, y_pred)

    return run


@every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_embedding_shows(case, bad):
    y_true, y_pred = case.inputs(9)
    y_pred.flat[0] = bad
    assert not np.isfinite(case.make()(y_true, y_pred))


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
