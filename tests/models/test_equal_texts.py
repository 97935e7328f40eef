"""A model that leaves texts out of the negatives of the texts that equal them."""

import keras
import numpy as np
import oracles
import pytest

import tfembloss
from tfembloss import layers, losses

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefgh"]
# A question with two answers, an answer of two questions, a question that is an answer.
QUESTIONS = ["a b", "a b", "c", "d e", "f"]
ANSWERS = ["g", "h", "h", "c", "a f"]
# As numbers by hand: equal where the texts are.
IDS = np.array([[0, 10], [0, 11], [2, 11], [3, 2], [4, 14]])


def model(loss=None, compiled=None, exclude_equal_texts=True, **options):
    keras.utils.set_random_seed(1)
    found = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(VOCABULARY), dim=8, dropout=0.0),
        tfembloss.text.TextPreprocessor(VOCABULARY, 4),
        exclude_equal_texts=exclude_equal_texts,
        **options,
    )
    loss = loss or losses.MultipleNegativesRankingLoss(exclude_equal_ids=True)
    found.compile(keras.optimizers.SGD(0.1), loss, **(compiled or {}))
    return found


def expected(ids=IDS):
    embeddings = model().predict((QUESTIONS, ANSWERS), verbose=0).astype("float64")
    return oracles.multiple_negatives_ranking(ids, embeddings)


@pytest.fixture(scope="module")
def values():
    """The oracle's, [5]; with other ids or none they are others."""
    values = expected()
    assert np.abs(values - expected(None)).max() > 0.1
    assert np.abs(values - expected(IDS[:, 0])).max() > 0.1
    assert np.abs(values - expected(IDS[:, 1])).max() > 0.1
    return values


class OneBatch(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        return (tuple(map(np.array, (QUESTIONS, ANSWERS))),)


def fitted(run, x, **options):
    return run.fit(x, verbose=0, shuffle=False, **options).history["loss"][0]


HOWS = {
    "graph": {},
    "eager": {"compiled": {"run_eagerly": True}},
    "XLA": {"compiled": {"jit_compile": True}},
    "mini-batches": {"mini_batch_size": 2},
}


@pytest.mark.parametrize("how", HOWS)
def test_every_mode_gives_the_oracles_loss(how, values):
    run = model(**HOWS[how])
    run.optimizer.learning_rate = 0.0
    x = (QUESTIONS, ANSWERS)
    history = run.fit(x, batch_size=5, validation_data=(x,), verbose=0).history
    for name in ("loss", "val_loss"):
        assert history[name][0] == pytest.approx(values.mean(), rel=1e-5)


@pytest.mark.parametrize("form", ["lists", "dataset", "PyDataset", "generator", "batch"])
def test_texts_in_every_form(form, values):
    x = (QUESTIONS, ANSWERS)
    run = model(compiled={"run_eagerly": True})
    if form == "batch":
        assert run.test_on_batch(x) == pytest.approx(values.mean(), rel=1e-5)
        value = run.train_on_batch(x)
    elif form == "lists":
        weights = np.array([1.0, 0, 0, 2, 0])
        value = fitted(model(), x, batch_size=5, sample_weight=weights)
        values = values * weights
    elif form == "dataset":
        value = fitted(run, tfembloss.data.columns(*x).batch(5))
    else:
        value = fitted(run, OneBatch() if form == "PyDataset" else iter([OneBatch()[0]]))
    assert value == pytest.approx(values.mean(), rel=1e-5)


def test_other_losses_with_it():
    x = (QUESTIONS, ANSWERS)
    ranking = losses.MultipleNegativesRankingLoss(exclude_equal_ids=True)
    spread = losses.GlobalOrthogonalRegularizationLoss()
    for loss in (
        losses.MatryoshkaLoss(ranking, dims=[8, 2]),
        losses.WeightedSum({"rank": ranking, "spread": spread}),
        losses.SigLIPLoss(exclude_equal_ids=True),
    ):
        run = model(loss, {"run_eagerly": True})
        embeddings = run.predict(x, verbose=0)
        value = run.test_on_batch(x, return_dict=True)["loss"]
        assert float(value) == pytest.approx(float(loss(IDS, embeddings)), rel=1e-5)


def test_saved_it_trains_on(tmp_path, values):
    model().save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.exclude_equal_texts
    value = fitted(again, (QUESTIONS, ANSWERS), batch_size=5)
    assert value == pytest.approx(values.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": losses.MultipleNegativesRankingLoss()}, "leaves out equal ids.*Ranking"),
        ({"loss": losses.GISTEmbedLoss()}, "GISTEmbedLoss without exclude_equal_ids"),
        ({"loss": "mse"}, "without exclude_equal_ids=True"),
        ({"memory": layers.CrossBatchMemory(8)}, "no memory.*CrossBatchMemory"),
        ({"exclude_equal_texts": 1}, "must be True or False"),
    ],
)
def test_what_does_not_go_with_it(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)
    with pytest.raises(ValueError, match="expected a preprocessor"):
        tfembloss.EmbeddingModel(layers.Pooling(), exclude_equal_texts=True)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda run, x: run.fit(x, IDS[:, 0], verbose=0), "the ids of texts are y"),
        (lambda run, x: run.train_on_batch(x, IDS), "the ids of texts are y"),
        (lambda run, x: run.evaluate(x, IDS, verbose=0), "Leave y out"),
        (lambda run, x: run.fit((x[0], [1, 2, 3, 4, 5])), "columns of texts.*int32"),
        (lambda run, x: run.fit(x[0]), r"columns \[B, n, D\]"),
    ],
)
def test_wrong_input(fit, message):
    with pytest.raises(ValueError, match=message):
        fit(model(), (QUESTIONS, ANSWERS))


def test_ids_of_columns_do_not_go_with_a_memory():
    run = model(exclude_equal_texts=False, memory=layers.CrossBatchMemory(8))
    with pytest.raises(ValueError, match=r"ids y_true of shape \[B\].*\(5, 2\).*memory"):
        run.train_on_batch((QUESTIONS, ANSWERS), IDS)
