"""Rows of several labels: the same as ids where each row has one, in every form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels, value_and_gradient  # noqa: F401

import tfembloss
from tfembloss import layers, losses, miners
from tfembloss.losses import several_labels

CLASSES = [
    losses.SupConLoss,
    losses.NTXentLoss,
    losses.MultiSimilarityLoss,
    losses.LabelContrastiveLoss,
]
every_class = pytest.mark.parametrize("make", CLASSES)
SETS = [[0, 2], [2], [], [1, 3, 4], [4], [0, 1], [3, 0, 2], [1]]


def rows(num_rows=8, seed=0):
    return np.random.default_rng(seed).normal(size=[num_rows, 6])


def multi_hot(sets, num_labels=5):
    return np.stack([np.isin(np.arange(num_labels), labels) for labels in sets])


def forms(sets):
    """The same labels in every form, with that form's name."""
    padded = tf.ragged.constant(sets, dtype=tf.int64).to_tensor(-1).numpy()
    names = tf.ragged.constant([[f"label {i}" for i in labels] for labels in sets])
    return {
        "booleans": ("multi_hot", multi_hot(sets)),
        "numbers": ("multi_hot", multi_hot(sets).astype("float32")),
        "ids": ("ids", 2**53 + padded * (padded >= 0) - (2**53 + 1) * (padded < 0)),
        "twice": ("ids", np.concatenate([padded, padded[:, ::-1]], axis=1)),
        "ragged": ("ids", tf.ragged.constant(sets, dtype=tf.int64)),
        "strings": ("ids", names.to_tensor("").numpy()),
        "ragged strings": ("ids", names),
    }


@every_class
@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()])
def test_one_label_of_each_row_is_its_id(make, miner):
    ids = np.arange(12) % 4
    expected = value_and_gradient(make(miner=miner), ids, rows(12))
    assert np.abs(expected[1]).max() > 0
    for form, y_true in forms(ids[:, None].tolist()).values():
        loss = make(miner=miner, multi_label=form)
        for got, want in zip(
            value_and_gradient(loss, y_true, rows(12)), expected, strict=True
        ):
            np.testing.assert_array_equal(got, want)


@every_class
def test_every_form_gives_the_same(make):
    results = [
        make(multi_label=form, reduction=None, dtype="float64")(y_true, rows())
        for form, y_true in forms(SETS).values()
    ]
    assert np.isfinite(results[0]).all() and np.abs(results[0]).max() > 0
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_pair_counts_by_the_labels_that_it_shares():
    x = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    labels = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]])  # a third, a half, none
    near, half = 1 - 0.6, 1.0  # distances of the first row to both others
    far = 1 - 0.8
    loss = losses.LabelContrastiveLoss(distance="cosine", multi_label="multi_hot")
    expected = (near / 3 + half / 2) / (1 / 3 + 1 / 2) + (1 - far)
    np.testing.assert_allclose(loss(labels, x), expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["multi_hot", "ids"])
@pytest.mark.parametrize("miner", [
    miners.BatchHardMiner(), miners.DistanceWeightedMiner(), miners.HDCMiner(),
])  # fmt: skip
def test_every_kind_of_miner_selects_by_shared_labels(form, miner):
    of_form = {name: y for name, y in forms(SETS * 2).values()}
    x, pairs = rows(16), multi_hot(SETS * 2)
    share = (pairs @ pairs.T.astype(int)) > 0
    loss = losses.NTXentLoss(miner=miner, multi_label=form)
    batch = loss.batch(
        tf.convert_to_tensor(loss.dense_targets(of_form[form])),
        tf.constant(x, "float32"),
        None,
    )
    selected = loss.selected_pairs(batch, loss.candidates(batch).distances)
    assert selected.positive.numpy().any() and selected.negative.numpy().any()
    assert not selected.positive.numpy()[~share].any()
    assert not selected.negative.numpy()[share].any()
    value, gradient = value_and_gradient(loss, of_form[form], x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def make_model(loss, **options):
    encoder = keras.Sequential([keras.Input([6]), keras.layers.Dense(4)])
    model = tfembloss.EmbeddingModel(encoder, **options)
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


@pytest.mark.parametrize("form", ["booleans", "ragged"])
def test_a_model_trains_on_them_and_is_saved(form, tmp_path):
    kind, y = forms(SETS * 4)[form]
    model = make_model(losses.SupConLoss(multi_label=kind))
    history = model.fit(rows(32).astype("f"), y, batch_size=16, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] - 0.1
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").loss.multi_label == kind


@pytest.mark.parametrize("form", ["numbers", "ids"])
def test_a_memory_keeps_them(form, tmp_path):
    kind, y = forms(SETS * 2)[form]
    memory = layers.CrossBatchMemory(16)
    model = make_model(losses.SupConLoss(multi_label=kind), memory=memory)
    model.fit(rows(16).astype("f"), y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_array_equal(memory.contents().ids, y)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.memory.contents().ids, y)
    with pytest.raises(ValueError, match=r"as it keeps of a row: shape \[B, \d\]"):
        model.fit(rows(16).astype("f"), np.concatenate([y, y], axis=1), verbose=0)


@pytest.mark.parametrize("form", ["strings", "ragged strings"])
def test_a_model_takes_names_of_labels(form):
    x, losses_of = rows(16).astype("f"), []
    for name in (form, "ids"):
        kind, y = forms(SETS * 2)[name]
        keras.utils.set_random_seed(0)
        model = make_model(losses.SupConLoss(multi_label=kind))
        losses_of += model.fit(x, y, batch_size=16, verbose=0).history["loss"]
    assert losses_of[0] == losses_of[1] > 0


@pytest.mark.parametrize("wrapped", [
    lambda loss: losses.MatryoshkaLoss(loss, dims=[4, 2]),
    lambda loss: losses.WeightedSum({"labels": loss}),
    lambda loss: loss,  # of which the model learns the scale
])  # fmt: skip
def test_wrappers_take_them(wrapped):
    y, x = forms(SETS * 2)["ragged strings"][1], rows(16).astype("f")
    loss = wrapped(losses.SupConLoss(multi_label="ids"))
    padded = y.to_tensor("", shape=[None, 3]).numpy()
    found = []
    for labels, memory in ((y, None), (padded, None), (padded, layers.CrossBatchMemory(8))):
        keras.utils.set_random_seed(0)
        model = make_model(loss, memory=memory, learn_scale=True)
        found += model.fit(x, labels, batch_size=16, verbose=0).history["loss"]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    assert found[0] > 0 and memory.contents().ids.shape == (8, 3)


def test_a_stock_keras_model_trains_on_them():
    y = forms(SETS * 4)["ragged"][1]
    model = keras.Sequential([keras.Input([6]), keras.layers.Dense(4)])
    model.compile("adam", losses.NTXentLoss(multi_label="ids"))
    data = tf.data.Dataset.from_tensor_slices((rows(32).astype("f"), y)).batch(16)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("form, y_true, message", [
    (None, multi_hot(SETS).astype(int), r"\[B\].*several labels.*multi_label=.multi_hot"),
    (None, multi_hot(SETS).astype("f"), r"\[B\].*several labels.*multi_label=.multi_hot"),
    (None, tf.ragged.constant(SETS), r"Received: RaggedTensor\. .*multi_label='ids'"),
    ("multi_hot", np.arange(8), r"\[B, C\], 1 for each label.*multi_label=None"),
    ("multi_hot", np.full([8, 2], 2), "There are other numbers in it"),
    ("multi_hot", np.zeros([7, 5]), r"Received: y_true.shape=\(7, 5\)"),
    ("multi_hot", np.full([8, 2], "a"), "For ids of labels, use"),
    ("ids", np.arange(8), r"\[B, L\], the ids of each row's labels"),
    ("ids", np.zeros([8, 2]), "integers padded with -1"),
    ("multi_hot", tf.ragged.constant(SETS), r"ids of labels by to_tensor\(-1\)"),
])  # fmt: skip
def test_labels_of_another_form_are_refused(form, y_true, message):
    with pytest.raises(ValueError, match=message):
        losses.SupConLoss(multi_label=form)(y_true, rows())


def test_other_misuse_is_refused():
    with pytest.raises(
        ValueError, match=r"one of None, 'multi_hot', 'ids'\. Received: multi_label=True"
    ):
        losses.NTXentLoss(multi_label=True)
    with pytest.raises(ValueError, match=r"Give one id for each row\.$"):
        losses.CircleLoss()(multi_hot(SETS).astype(int), rows())
    with pytest.raises(ValueError, match="a row is a class of its own"):
        losses.SelfSupervisedLoss(losses.NTXentLoss(multi_label="ids"))
    loss, memory = losses.SupConLoss(multi_label="ids"), layers.CrossBatchMemory(16)
    model = make_model(loss, memory=memory)
    with pytest.raises(ValueError, match=r"L must be known.*=\[None, 8\].*, None\)"):
        model.fit(rows().astype("f"), tf.ragged.constant(SETS), verbose=0)


@pytest.mark.parametrize("sets, warning", [
    ([[0], [1], [], [2, 3]], "no two rows of a batch of 4 share a label"),
    ([[0], [0, 1], [0, 2]], "all rows of a batch of 3 share a label"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["numbers", "ids", "strings"])
def test_a_batch_that_teaches_nothing_warns(sets, warning, form):
    kind, y_true = forms(sets)[form]
    with pytest.warns(UserWarning, match=warning):
        losses.SupConLoss(multi_label=kind)(y_true, rows(len(sets)))


def test_zeros_and_ones_as_ids_warn():
    y_true = multi_hot(SETS).astype(int)
    with pytest.warns(UserWarning, match='0 and 1, in 5 columns.*multi_label="multi_hot'):
        losses.SupConLoss(multi_label="ids")(y_true, rows())
    two_ids = several_labels.form_warning("ids", y_true[:, :2])
    assert two_ids is several_labels.form_warning("multi_hot", y_true) is None
