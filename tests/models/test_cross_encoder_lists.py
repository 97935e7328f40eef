import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import losses

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
QUERIES = ["a", "b", "c", "d"]
DOCUMENTS = [["o p", "a o", "i"], ["b p", "o"], ["i p"], ["o p", "d i", "d", "a"]]
LABELS = [[0, 2, 0], [1, 0], [1], [0, 1, 2, 0]]
PAIRS = [(q, d) for q, texts in zip(QUERIES, DOCUMENTS, strict=True) for d in texts]
SIZES = [3, 2, 1, 4]


def cross_encoder(loss=None, optimizer="adam", in_graph=False, **options):
    """A small model of texts of one and four letters."""
    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(
        len(VOCABULARY), dim=16, sequence_length=7, num_layers=1, num_heads=2, dropout=0.0
    )
    preprocessor = tfembloss.text.TextPairPreprocessor(VOCABULARY, 3, 4)
    model = tfembloss.CrossEncoder(encoder, preprocessor, **options)
    model.compile(optimizer, loss or losses.LambdaLoss(), run_eagerly=not in_graph)
    model.optimizer.learning_rate = 0.01
    return model


def value(model, loss, x, y=None, **options):
    model.compile("sgd", loss, run_eagerly=True)
    return model.evaluate(x, y, verbose=0, **options)


@pytest.fixture(scope="module")
def model():
    return cross_encoder()


def scores_of_lists(model):
    scores = model.predict(tuple(map(list, zip(*PAIRS, strict=True))), verbose=0)
    return np.split(scores, np.cumsum(SIZES)[:-1])


def test_lists_have_the_scores_of_their_pairs(model):
    expected = scores_of_lists(model)
    found = model.predict((QUERIES, DOCUMENTS), verbose=0)
    assert found.shape == (4, 4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[: len(other)], other, rtol=1e-5)
        assert np.isnan(one[len(other) :]).all()


def ragged():
    return (tf.constant(QUERIES), tf.ragged.constant(DOCUMENTS)), tf.ragged.constant(LABELS)


def padded():
    texts = np.array([[*x, *[""] * (4 - len(x))] for x in DOCUMENTS])
    labels = np.array([[*x, *[np.nan] * (4 - len(x))] for x in LABELS], "float32")
    return (np.array(QUERIES), texts), labels


@pytest.mark.parametrize(
    "loss", [losses.LambdaLoss(), losses.ListNetLoss(), losses.ListMLELoss()]
)
def test_a_loss_on_lists_of_any_form(model, loss):
    scores = [
        tf.ragged.constant(x) for x in (LABELS, list(map(list, scores_of_lists(model))))
    ]
    expected = loss(*scores)
    in_dataset = tf.data.Dataset.from_tensor_slices(ragged()).batch(4)
    for x, y in (
        ((QUERIES, DOCUMENTS), LABELS),
        ragged(),
        padded(),
        (in_dataset, None),
    ):
        np.testing.assert_allclose(value(model, loss, x, y), expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_keras_losses_of_lists_are_those_of_all_pairs(model, reduction):
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
    labels = [[min(y, 1) for y in x] for x in LABELS]
    x = tuple(map(list, zip(*PAIRS, strict=True)))
    weights = np.array([1.0, 2.0, 0.0, 3.0])
    expected = value(
        model, loss, x, np.concatenate(labels), sample_weight=np.repeat(weights, SIZES)
    )
    found = value(model, loss, (QUERIES, DOCUMENTS), labels, sample_weight=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_learns_the_order_of_lists(tmp_path):
    model = cross_encoder(losses.LambdaLoss())
    batches = tfembloss.data.from_arrays(*padded()).batch(4).repeat(25)
    model.fit(batches, verbose=0)
    for i in (0, 3):
        best = model.rank(QUERIES[i], DOCUMENTS[i], top_k=1)
        assert [x["corpus_id"] for x in best] == [np.argmax(LABELS[i])]
    expected = model.predict((QUERIES, DOCUMENTS), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.predict((QUERIES, DOCUMENTS), verbose=0), expected, rtol=1e-6
    )


def test_every_way_to_train_takes_lists():
    model = cross_encoder()
    model.fit((QUERIES, DOCUMENTS), LABELS, validation_split=0.5, verbose=0)
    model.train_on_batch((QUERIES, DOCUMENTS), LABELS)


def test_rank_sorts_documents(model):
    texts = ["o p", "a", "i o p", "a"]
    scores = model.predict((["a"] * 4, texts), verbose=0)
    ranked = model.rank("a", texts, return_documents=True)
    assert [x["corpus_id"] for x in ranked] == np.argsort(-scores, kind="stable").tolist()
    for x in ranked:
        assert x["text"] == texts[x["corpus_id"]]
        np.testing.assert_allclose(x["score"], scores[x["corpus_id"]], rtol=1e-6)
    assert model.rank("a", texts, top_k=2) == [
        {k: x[k] for k in ("corpus_id", "score")} for x in ranked[:2]
    ]
    assert model.rank("a", []) == []
    with pytest.raises(ValueError, match="one text as query"):
        model.rank(["a"], texts)


def test_mini_batches_of_lists_are_the_batch():
    runs = []
    for size in (None, 3):
        model = cross_encoder(losses.ListNetLoss(), optimizer="sgd", mini_batch_size=size)
        batches = tfembloss.data.from_arrays(*padded()).batch(4)
        runs.append(model.fit(batches, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*runs, rtol=1e-5)


@pytest.mark.parametrize("make", [losses.MarginMSELoss, losses.DistillKLDivLoss])
def test_a_teachers_scores_of_lists_of_one_length(model, make):
    texts = [x[:2] for x in DOCUMENTS if len(x) > 1]
    queries = [q for q, x in zip(QUERIES, DOCUMENTS, strict=True) if len(x) > 1]
    teacher = np.random.default_rng(0).normal(size=[3, 2])
    scores = model.predict((queries, texts), verbose=0)
    expected = make()(teacher, scores)
    np.testing.assert_allclose(
        value(model, make(), (queries, texts), teacher), expected, rtol=1e-5
    )


# Documents of other rows, drawn in each step.


def test_documents_of_all_other_rows_are_negatives(model):
    """Without a draw: each row's own hard negative, and all others once."""
    positives, negatives = ["a o", "b o", "c", "d i"], ["p", "i p", "o", "m"]
    x = (QUERIES, positives, negatives)
    loss = losses.CrossEncoderMultipleNegativesRankingLoss(num_negatives=None)
    found, texts = value(model, loss, x), [*positives, *negatives]
    pairs = [q for q in QUERIES for _ in texts], texts * 4
    scores = model.predict(pairs, verbose=0).reshape(4, 8)
    ordered = [[s[i], *np.delete(s, i)] for i, s in enumerate(scores)]
    np.testing.assert_allclose(found, loss(None, np.array(ordered)), rtol=1e-5)


def draws(model, x, epochs=2):
    """The tokens of the documents that are scored in each epoch."""
    batches = tf.data.Dataset.from_tensor_slices((x,)).batch(8)
    steps = model.step_batches(batches, training=True)
    return [next(iter(steps))["lists"].numpy() for _ in range(epochs)]


def test_draws_are_of_other_rows_and_follow_from_the_seed():
    x = (list("abcdefgh"), list("ijklmnop"), list("ponmlkji"))
    found = []
    for seed in (1, 1, 2):
        loss = losses.CrossEncoderMultipleNegativesRankingLoss(num_negatives=5, seed=seed)
        model = cross_encoder(loss)
        found.append(draws(model, x))
    first, again, other = found
    for epoch in first:
        assert epoch.shape == (8, 7, 7)
        documents = epoch[:, :, 3]  # one letter each, from the fourth place on
        assert (documents[:, 0] == [VOCABULARY.index(y) for y in x[1]]).all()
        assert (documents[:, 1] == [VOCABULARY.index(y) for y in x[2]]).all()
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first[0] != other[0]).any()


def test_learns_from_pairs_alone():
    loss = losses.CrossEncoderMultipleNegativesRankingLoss(2, seed=0)
    model = cross_encoder(loss, in_graph=True)
    texts = [f"{query} o" for query in QUERIES]
    batches = tfembloss.data.columns(QUERIES, texts).batch(4).repeat()
    history = model.fit(batches, epochs=2, steps_per_epoch=30, verbose=0).history["loss"]
    assert history[1] < 0.5 * history[0]
    model.train_on_batch((QUERIES, texts))


# Several labels.


def test_classes_of_pairs(tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = cross_encoder(loss, num_labels=3)
    x, y = (["a", "a", "b"], ["a", "b", "o"]), [0, 1, 2]
    model.fit(tfembloss.data.from_arrays(x, y).batch(3).repeat(25), verbose=0)
    logits = model.predict(x, verbose=0)
    assert logits.shape == (3, 3) and logits.argmax(axis=1).tolist() == y
    value = loss(np.array(y), logits)
    for same in (loss, losses.SoftmaxLoss()):
        model.compile("sgd", same, run_eagerly=True)
        found = model.evaluate(x, np.array(y), verbose=0)
        np.testing.assert_allclose(found, value, atol=1e-6)
    found = model.evaluate(x, np.eye(3), verbose=0)  # probabilities
    np.testing.assert_allclose(found, value, atol=1e-6)
    tfembloss.export_encoder(model, tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    served = serve(first=tf.constant(x[0]), second=tf.constant(x[1]))["score"]
    np.testing.assert_allclose(served, logits, rtol=1e-5)
    with pytest.raises(ValueError, match="num_labels=3"):
        model.predict((QUERIES, DOCUMENTS), verbose=0)
    with pytest.raises(ValueError, match="num_labels=3"):
        model.rank("a", ["b"])


@pytest.mark.parametrize(
    "y, message",
    [
        (None, "each text of a list as y.*Received: none"),
        ([[1]] * 4, "lists of the same lengths"),
        (np.ones(4), r"label for each|each text of a list"),
    ],
)
def test_what_are_no_labels_of_lists_is_refused(model, y, message):
    for loss in (losses.ListNetLoss(), "mse"):
        with pytest.raises(ValueError, match=message):
            value(model, loss, (QUERIES, DOCUMENTS), y)
