"""What a CrossEncoder is given for lists of documents: in which forms, and what fits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import losses

QUERIES, SIZES = ["a", "bb", "c", "ddd"], [3, 2, 1, 4]
DOCUMENTS = [["o p", "a o", "i"], ["b p", "o"], ["i p"], ["o p", "d i", "d", "a"]]
LABELS = [[0, 2, 0], [1, 0], [1], [0, 1, 2, 0]]
PAIR_OF_LISTS = (["a", "bb"], [["o", "pp"], ["mmm", "n"]])


def lengths(queries, documents):
    """In place of tokens: how long the two texts are."""
    parts = (tf.strings.length(queries), tf.strings.length(documents))
    return tf.cast(tf.stack(parts, axis=1), tf.float32)


def small_encoder():
    x = keras.Input([2])
    return keras.Model(x, keras.layers.Identity()(x))


def small_model(loss="mse", **options):
    keras.utils.set_random_seed(0)
    model = tfembloss.CrossEncoder(small_encoder(), lengths)
    model.compile("sgd", loss, run_eagerly=True, **options)
    return model


@pytest.fixture(scope="module")
def model():
    return small_model()


def value(model, loss, x, y=None, sample_weight=None):
    model.compile("sgd", loss, run_eagerly=True)
    return model.test_on_batch(x, y, sample_weight)


def of_batches(model, loss, *rows):
    model.compile("sgd", loss, run_eagerly=True)
    return model.evaluate(tf.data.Dataset.from_tensor_slices(rows).batch(4), verbose=0)


def ragged():
    return (tf.constant(QUERIES), tf.ragged.constant(DOCUMENTS)), tf.ragged.constant(LABELS)


def padded():
    texts = np.array([[*x, *[""] * (4 - len(x))] for x in DOCUMENTS])
    labels = np.array([[*x, *[np.nan] * (4 - len(x))] for x in LABELS], "float32")
    return (np.array(QUERIES), texts), labels


@pytest.mark.parametrize("loss", [losses.ListNetLoss(), "mse"])
@pytest.mark.parametrize("width", [2, 4])
def test_labels_of_another_width_are_refused(model, loss, width):
    """Narrower ones once cut off documents."""
    x = np.array(["a", "b"]), np.array([["o", "p", "i"], ["m", "n", "o"]])
    y, message = np.ones([2, width], "float32"), "Expected a label for each document, y of"
    with pytest.raises(ValueError, match=message):
        value(model, loss, x, y)
    with pytest.raises(ValueError, match=f"{message}|Expected NaN as label where a list"):
        value(model, loss, tuple(map(np.ndarray.tolist, x)), y)
    with pytest.raises(ValueError, match=message):
        of_batches(model, loss, x, y)


def test_labels_of_another_width_are_refused_at_run_time(model):
    y = tf.RaggedTensor.from_tensor(np.ones([2, 2], "float32"))
    x = np.array(["a", "b"]), np.array([["o", "p", "i"], ["m", "n", "o"]])
    with pytest.raises(ValueError, match="Expected a label for each document, y of"):
        of_batches(model, losses.ListNetLoss(), x, y)


@pytest.mark.parametrize("y", [np.ones([4, 4]), np.ones([4, 4], int), tf.ones([4, 4])])
def test_labels_where_a_list_has_ended_are_refused(model, y):
    message = "Expected NaN as label where a list of documents has ended"
    x, _ = ragged()
    for documents in ((QUERIES, DOCUMENTS), x):
        with pytest.raises(ValueError, match=message):
            value(model, losses.ListNetLoss(), documents, y)
    with pytest.raises(ValueError, match=message):
        of_batches(model, "mse", x, y)


def test_an_array_of_labels_ends_in_nan(model):
    y = np.where(np.arange(4) < np.array(SIZES)[:, None], 1.0, np.nan)
    expected = value(model, "mse", (QUERIES, DOCUMENTS), [[1] * n for n in SIZES])
    for x in ((QUERIES, DOCUMENTS), ragged()[0], padded()[0]):
        np.testing.assert_allclose(value(model, "mse", x, y), expected, rtol=1e-6)


def test_ragged_labels_of_other_lengths_are_refused(model):
    y = tf.ragged.constant([[0, 2], [1, 0], [1], [0, 1, 2, 0]])
    with pytest.raises(ValueError, match="as lists of the same lengths"):
        of_batches(model, losses.ListNetLoss(), ragged()[0], y)


def of_objects(rows):
    """As a data frame's column holds lists."""
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def test_lists_in_arrays_of_objects(model):
    loss = losses.ListNetLoss()
    expected = value(model, loss, (QUERIES, DOCUMENTS), LABELS)
    x = QUERIES, of_objects(DOCUMENTS)
    assert value(model, loss, x, of_objects(LABELS)) == expected
    scores = model.predict(x, verbose=0)
    assert np.isnan(scores).sum(axis=1).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("loss", [losses.ListNetLoss(), "mse"])
def test_truth_values_are_labels(model, loss):
    y = np.eye(2) > 0
    expected = value(model, loss, PAIR_OF_LISTS, y.astype("float32"))
    assert value(model, loss, PAIR_OF_LISTS, y) == expected
    assert value(model, loss, PAIR_OF_LISTS, y.tolist()) == expected


@pytest.mark.parametrize("loss", [losses.MarginMSELoss(), losses.DistillKLDivLoss()])
def test_a_teachers_scores_of_lists_of_other_lengths_are_refused(model, loss):
    message = "Expected lists of one length"
    for x, y in ((QUERIES, DOCUMENTS), LABELS), ragged(), padded():
        with pytest.raises(ValueError, match=message):
            value(model, loss, x, y)
    for x, y in ragged(), padded():
        with pytest.raises(ValueError, match=message):
            of_batches(model, loss, x, y)


def test_margins_are_lists_or_arrays(model):
    expected = value(model, losses.MarginMSELoss(), PAIR_OF_LISTS, np.array([[1.0], [2.0]]))
    for y in ([[1.0], [2.0]], [1.0, 2.0]):
        assert value(model, losses.MarginMSELoss(), PAIR_OF_LISTS, y) == expected
    with pytest.raises(ValueError, match="lists of the same lengths"):
        value(model, losses.ListNetLoss(), PAIR_OF_LISTS, [[1.0], [2.0]])


@pytest.mark.parametrize("loss", [losses.ListNetLoss(), "mse"])
def test_weights_of_each_document_are_refused(model, loss):
    with pytest.raises(ValueError, match=r"sample_weight of shape \[B\]"):
        value(model, loss, PAIR_OF_LISTS, np.eye(2), np.ones([2, 2]))


def test_negatives_are_not_drawn_of_lists(model):
    loss = losses.CrossEncoderMultipleNegativesRankingLoss()
    with pytest.raises(ValueError, match=r"one text for each row.*further columns"):
        value(model, loss, PAIR_OF_LISTS)


@pytest.mark.parametrize("loss", [losses.ListNetLoss(), "mse"])
def test_metrics_are_those_of_all_pairs(loss):
    """Of each document, without the padding; `weighted_metrics` with the lists' weights."""
    x, y, weights = (
        (["aa", "b"], [["o", "mmm", "i"], ["ppp"]]),
        [[1, 0, 1], [1]],
        [1.0, 2.0],
    )
    metrics = {
        "metrics": ["accuracy", keras.metrics.BinaryAccuracy(threshold=0), "mae"],
        "weighted_metrics": [keras.metrics.MeanAbsoluteError(name="weighted")],
    }
    model = small_model(loss, **metrics)
    found = model.test_on_batch(x, y, np.array(weights), return_dict=True)
    scores = model.predict(x, verbose=0)
    scores, labels = np.append(scores[0], scores[1, 0]), np.array([1.0, 0, 1, 1])
    errors = np.abs(scores - labels)
    expected = {
        "accuracy": np.mean((scores > 0.5) == labels),
        "binary_accuracy": np.mean((scores > 0) == labels),
        "mae": errors.mean(),
        "weighted": np.average(errors, weights=[1, 1, 1, 2]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_metrics_without_labels_are_refused():
    loss = losses.CrossEncoderMultipleNegativesRankingLoss()
    model = small_model(loss, metrics=["mae"])
    with pytest.raises(ValueError, match="expected y"):
        model.fit((["a", "b"], ["c", "d"]), sample_weight=[1.0, 2.0], verbose=0)


def test_metrics_of_lists_in_xla():
    x, y = {"lists": np.ones([2, 3, 2])}, np.array([[1, 0, 1], [1, np.nan, np.nan]])
    model = tfembloss.CrossEncoder(small_encoder())
    model.compile("sgd", "mse", metrics=["mae"], jit_compile=True)
    loss, error = model.test_on_batch(x, y)
    errors = np.abs(model.predict_on_batch(x)[0, 0] - np.array([1, 0, 1, 1]))
    np.testing.assert_allclose(
        [loss, error], [(errors**2).mean(), errors.mean()], rtol=1e-5
    )


@pytest.mark.parametrize(
    "loss, message",
    [
        (losses.SupConLoss(), "SupConLoss takes embeddings, and a CrossEncoder"),
        (losses.MultipleNegativesRankingLoss(), "or CrossEncoderMultipleNegatives"),
        (losses.ArcFaceLoss(), "ArcFaceLoss takes cosines to classes"),
        (losses.MatryoshkaLoss(losses.MarginMSELoss(), [1]), "takes embeddings"),
        (
            losses.WeightedSum({"a": losses.MarginMSELoss(), "b": losses.CoSENTLoss()}),
            "CoSENTLoss takes embeddings",
        ),
    ],
)
def test_losses_of_embeddings_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        small_model(loss)


@pytest.mark.parametrize(
    "make",
    [
        losses.LambdaLoss,
        losses.CrossEncoderMultipleNegativesRankingLoss,
        losses.MarginMSELoss,
        losses.DistillKLDivLoss,
    ],
)
def test_losses_of_one_score_refuse_classes(make):
    model = tfembloss.CrossEncoder(keras.layers.Identity(), num_labels=3)
    with pytest.raises(ValueError, match=r"num_labels=1\. Received: num_labels=3"):
        model.compile("sgd", make())


def test_a_sum_of_losses_of_a_teacher(model):
    parts = {"margins": losses.MarginMSELoss(), "kl": losses.DistillKLDivLoss()}
    y = np.array([[1.0, 2.0], [3.0, 1.0]])
    expected = sum(value(model, loss, PAIR_OF_LISTS, y) for loss in parts.values())
    found = value(model, losses.WeightedSum(parts), PAIR_OF_LISTS, y)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("in_graph", [False, True])
def test_negatives_are_drawn_of_texts_only(in_graph):
    loss = losses.CrossEncoderMultipleNegativesRankingLoss()
    model = tfembloss.CrossEncoder(small_encoder())
    model.compile("sgd", loss, run_eagerly=not in_graph)
    with pytest.raises(ValueError, match=r"at least two documents.*give it a preprocessor"):
        model.fit(np.ones([3, 2]), batch_size=2, verbose=0)
    model = small_model(loss)
    model.compile("sgd", loss, run_eagerly=not in_graph)
    model.fit((["a", "b", "c"], ["dd", "e", "fff"]), batch_size=2, verbose=0)


def test_lists_of_one_document_have_the_scores_of_lists(model):
    pairs = (["a", "bb"], ["o", "pp"])
    scores = model.predict(pairs, verbose=0)
    assert scores.shape == (2,)
    found = model.predict((pairs[0], [["o"], ["pp"]]), verbose=0)
    np.testing.assert_array_equal(found, scores[:, None])
    several = tfembloss.CrossEncoder(model.encoder, lengths, num_labels=3)
    with pytest.raises(ValueError, match="num_labels=3"):
        several.predict((pairs[0], [["o"], ["pp"]]), verbose=0)
