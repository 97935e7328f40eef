"""A queue of earlier batches, which the model has and the loss compares with."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses
from tfembloss.losses.labeled.base import PairMeansLoss
from tfembloss.masks import MemoryRows

NOW, THEN = 7, 9  # rows of the batch, and of earlier ones
TAKE_MEMORY = {
    name: case
    for name, case in CASES.items()
    if case.make().takes_memory and case.by_order is None and "-texts" not in name
}


def inputs(case):
    """y_true and y_pred of now and then."""
    y_true, y_pred = case.inputs(NOW + THEN)
    return y_true, tf.constant(y_pred)


def memory_of(loss, y_true, y_pred):
    """Rows of a memory, with two places that are empty."""
    nothing = tf.fill([2, *y_pred.shape[1:]], tf.constant(3.0, y_pred.dtype))
    ids = loss.memory_ids(tf.constant(y_true), y_pred)
    return MemoryRows(
        tf.concat([nothing, y_pred[NOW:]], axis=0),
        tf.concat([ids[:2], ids[NOW:]], axis=0),
        tf.constant([False] * 2 + [True] * THEN),
    )


def shares(values, x, tape):
    """Values and gradients for values that sum to 1: whatever the number of anchors."""
    total = tf.stop_gradient(tf.reduce_sum(values))
    with tape:
        values /= total
    return values, tape.gradient(values, x)[:NOW]


def test_these_losses_take_it():
    assert len(TAKE_MEMORY) > 20
    others = {
        "LiftedStructureLoss",
        "NPairsLoss",
        "SigLIPLoss",
        "CoSENTLoss",
        "ArcFaceLoss",
    }
    assert not others & set(TAKE_MEMORY)
    assert {
        "MultipleNegativesRankingLoss",
        "MultipleNegativesRankingLoss-ids",
        "MegaBatchMarginLoss",
        "SupConLoss",
        "BatchAllTripletLoss",
    } <= set(TAKE_MEMORY)


OF_TWO_MEANS = [
    name for name in TAKE_MEMORY if isinstance(CASES[name].make(), PairMeansLoss)
]


@pytest.mark.parametrize("name", OF_TWO_MEANS)
def test_two_means_are_of_the_batchs_own_anchors(name):
    y_true, y_pred = inputs(TAKE_MEMORY[name])
    loss = TAKE_MEMORY[name].make(dtype="float64")
    batch = loss.batch(tf.constant(y_true), y_pred, None)
    parts = loss.sums_and_counts(batch)
    pull, num_pull, push, num_push = (tf.reduce_sum(part[:NOW]) for part in parts)
    expected = float(pull / num_pull + push / num_push)
    found = loss(y_true[:NOW], y_pred[:NOW], memory=memory_of(loss, y_true, y_pred))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert abs(float(loss(y_true[:NOW], y_pred[:NOW])) - expected) > 1e-3


@pytest.mark.parametrize("name", [x for x in TAKE_MEMORY if x not in OF_TWO_MEANS])
def test_memory_rows_are_rows_without_values_of_their_own(name):
    y_true, y_pred = inputs(TAKE_MEMORY[name])
    loss = TAKE_MEMORY[name].make(reduction=None, dtype="float64")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y_pred)
        whole = loss(y_true, y_pred)[:NOW]
    expected = shares(whole, y_pred, tape)
    now = y_pred[:NOW]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(now)
        values = loss(y_true[:NOW], now, memory=memory_of(loss, y_true, y_pred))
    for ours, theirs in zip(shares(values, now, tape), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    alone = loss(y_true[:NOW], now)
    assert np.abs(values - alone).max() > 1e-3  # the memory does count


def make_model(loss=None, memory=20, learning_rate=0.1, **options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Dense(4)])
    if memory is not None:
        memory = layers.CrossBatchMemory(memory)
    model = tfembloss.EmbeddingModel(encoder, memory=memory, **options)
    model.compile(
        keras.optimizers.SGD(learning_rate),
        loss=loss or losses.MultipleNegativesRankingLoss(),
    )
    return model


def columns(num_rows=24, seed=0):
    return tuple(np.random.default_rng(seed).normal(size=[2, num_rows, 6]).astype("f"))


def fit(model, x, **options):
    options = {"batch_size": 6, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, **options).history["loss"]


def state(model):
    return [v.numpy() for v in model.memory.variables]


def test_each_step_sees_the_steps_before():
    """The loss of a step is that with the rows that earlier steps embedded."""
    x = columns()
    model = make_model(learning_rate=0.0, memory=12)
    model.encoder.layers[0].rate = 0.0
    seen = []
    fit(model, x, callbacks=[keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda i, logs: seen.append(logs["loss"]))])  # fmt: skip
    embedded = model(x).numpy()  # [24, 2, 4]
    loss = losses.MultipleNegativesRankingLoss(reduction=None)
    expected = []
    for start in range(0, 24, 6):
        rows = embedded[start : start + 6]
        earlier = embedded[max(0, start - 12) : start]
        both = np.concatenate([rows, earlier])
        expected.append(np.mean(loss(None, both)[:6]))
    running = np.cumsum(expected) / np.arange(1, 5)  # as Keras logs it
    np.testing.assert_allclose(seen, running, rtol=1e-5)
    held, _, num_rows = state(model)
    np.testing.assert_allclose(held, embedded[12:], rtol=1e-6)
    assert num_rows == 24


def test_evaluation_neither_uses_nor_moves_it():
    x = columns()
    model, plain = make_model(), make_model(memory=None)
    fit(model, x)
    plain.build([(None, 6)] * 2)
    plain.encoder.set_weights(model.encoder.get_weights())
    before = state(model)
    assert any(v.any() for v in before)
    np.testing.assert_allclose(
        model.evaluate(x, verbose=0), plain.evaluate(x, verbose=0), rtol=1e-6
    )
    model.predict(x, verbose=0)
    for ours, theirs in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_saved_model_goes_on_with_it(tmp_path):
    x, more = columns(), columns(seed=1)
    model = make_model(losses.MultipleNegativesRankingLoss(exclude_equal_ids=True))
    ids = np.arange(24) % 7
    fit(model, x, y=ids)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(state(again), state(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert fit(again, more, y=ids) == fit(model, more, y=ids)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    empty = make_model(losses.MultipleNegativesRankingLoss(exclude_equal_ids=True))
    empty.build([(None, 6)] * 2)
    empty.encoder.set_weights(model.encoder.get_weights())
    assert fit(empty, more, y=ids) != fit(model, more, y=ids)


def test_of_labels_and_by_mini_batches_and_compiled():
    x, ids = columns()[0], np.arange(24) % 5
    results = []
    for jit, options in ((False, {}), (False, {"mini_batch_size": 4}), (True, {})):
        model = make_model(losses.SupConLoss(), **options)
        model.encoder.layers[0].rate = 0.0  # which XLA draws otherwise
        model.jit_compile = jit
        with kernels(compiled=True):
            history = fit(model, x, y=ids, epochs=2)
        results.append([*history, *model.encoder.get_weights(), *state(model)])
    for result in results[1:]:
        for ours, theirs in zip(result, results[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_regularizers_count_as_without_it():
    x = columns(6)
    values = []
    for memory in (None, 20):
        model = make_model(memory=memory, learning_rate=0.0)
        model.encoder.layers[0].rate = 0.0
        model.encoder.layers[1].kernel_regularizer = keras.regularizers.L2(1.0)
        values += fit(model, x)
    np.testing.assert_allclose(*values, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.SigLIPLoss(),
        losses.LiftedStructureLoss(),
        losses.NTXentLoss(miner=tfembloss.miners.HDCMiner()),
        losses.CosineSimilarityLoss(),
    ],
)
def test_losses_that_take_none(loss):
    with pytest.raises(ValueError, match=f"{type(loss).__name__} takes no memory"):
        fit(make_model(loss), columns(), y=np.arange(24))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"expected a\s+tfembloss.layers.CrossBatchMemory"):
        tfembloss.EmbeddingModel(keras.layers.Dense(2), memory=100)
    for size in (0, 2.5, "all"):
        with pytest.raises(ValueError, match="`size` must be an integer >= 1"):
            layers.CrossBatchMemory(size)
    with pytest.raises(ValueError, match=r"at most 2\^24 rows"):
        layers.CrossBatchMemory(10**9)
    with pytest.raises(ValueError, match="expected one loss of tfembloss"):
        fit(make_model("mse"), columns(), y=np.zeros([24, 2, 4], "f"))
    model = make_model()
    fit(model, columns())
    with pytest.raises(ValueError, match=r"shape that the memory holds, \[B, 2, 4\]"):
        model.memory.enqueue(np.zeros([3, 4]), np.zeros(3))


def histogram_model():
    keras.utils.set_random_seed(0)
    memory = layers.TripletHistogram(momentum=0.5)
    encoder = keras.Sequential([keras.layers.Dense(4)])
    model = tfembloss.EmbeddingModel(encoder, memory=memory)
    model.compile(keras.optimizers.SGD(0.0), losses.DynamicSoftMarginLoss())
    return model


def test_a_histogram_of_triplets_is_moved_by_each_step_and_saved(tmp_path):
    x, ids = columns()[0], np.arange(24) % 3
    model, loss = histogram_model(), losses.DynamicSoftMarginLoss()
    history = fit(model, x, y=ids, batch_size=12)
    first, second = (model(x)[part] for part in (slice(12), slice(12, 24)))
    before = layers.TripletHistogram(momentum=0.5)
    before.enqueue(first, ids[:12])
    values = loss(ids[:12], first), loss(ids[12:], second, memory=before.contents())
    np.testing.assert_allclose(history[0], np.mean(values), rtol=1e-5)
    alone = loss.counts(tf.constant(ids[12:]), second)
    mixed = (before.parts.numpy() + alone / tf.reduce_sum(alone)) / 2
    np.testing.assert_allclose(model.memory.parts, mixed, rtol=1e-5)
    model.evaluate(x, ids, verbose=0)
    np.testing.assert_allclose(model.memory.parts, mixed, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.memory.parts, model.memory.parts)
    assert again.memory.momentum == 0.5


def test_a_histogram_and_its_loss_go_together():
    x, ids = columns()[0], np.arange(24) % 3
    model = histogram_model()
    wrapped = losses.MatryoshkaLoss(losses.DynamicSoftMarginLoss(), [2])
    histogram = "Received: a tfembloss.layers.TripletHistogram of 10 bins"
    for loss, message, of_loss in (
        (losses.SupConLoss(), f"memory of SupConLoss a .*CrossBatchMemory. {histogram}", x),
        (losses.SigLIPLoss(), f"SigLIPLoss takes no memory .*{histogram}", columns()),
        (wrapped, f"{histogram}.*TripletHistogram with .*, in no wrapper", x),
    ):
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=message):
            fit(model, of_loss, y=ids)
    with pytest.raises(ValueError, match=r"TripletHistogram\(10\).*: a .*\.CrossBatchMem"):
        fit(make_model(losses.DynamicSoftMarginLoss()), x, y=ids)
    with pytest.raises(ValueError, match=r"TripletHistogram\(5\).*Histogram of 10 bins"):
        model.compile("sgd", losses.DynamicSoftMarginLoss(5))
        fit(model, x, y=ids)
