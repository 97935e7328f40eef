"""Inputs and labels as users have them, and what they see when something is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import losses
from tfembloss.models import batches

X = np.random.default_rng(0).normal(size=[12, 4]).astype("float32")
Y = np.arange(12) % 3
NAMES = np.array(["cat", "dog", "cow"])[Y]
TEXTS = ["a red apple", "a green pear", "the blue sky", "the grey sea"]
WORDS = "a red apple green pear the blue sky grey sea"
VOCABULARY = ["[PAD]", "[UNK]", *WORDS.split(" ")]


def model_of(loss, preprocessor=None, **options):
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingModel(encoder, preprocessor)
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


# Making a graph takes longer than a few steps.


def text_model(loss=None, preprocessor=True, **options):
    keras.utils.set_random_seed(1)
    preprocess = tfembloss.text.TextPreprocessor(VOCABULARY, 8) if preprocessor else None
    encoder = tfembloss.text.TextEncoder(len(VOCABULARY), dim=8)
    model = tfembloss.EmbeddingModel(encoder, preprocess)
    loss = loss or losses.MultipleNegativesRankingLoss()
    model.compile("sgd", loss, **{"run_eagerly": True, **options})
    return model


def fitted(model, *data, **options):
    options = {"verbose": 0, "shuffle": False, "batch_size": 12, **options}
    return model.fit(*data, **options).history["loss"][0]


class Batches(keras.utils.PyDataset):
    def __init__(self, *elements):
        super().__init__()
        self.elements = elements

    def __len__(self):
        return len(self.elements)

    def __getitem__(self, i):
        return self.elements[i]


# Labels and rows in every form.


@pytest.mark.parametrize(
    "y",
    [
        Y.tolist(),
        Y[:, None],
        Y.astype("uint8"),
        Y.astype(object),
        NAMES,
        NAMES.tolist(),
        NAMES.astype("S"),
        NAMES.astype(object),
        tf.constant(NAMES),
    ],
    ids=["list", "column", "uint8", "objects", "str", "strs", "bytes", "named", "tensor"],
)
@pytest.mark.parametrize("preprocessor", [None, tf.identity])
def test_labels_in_every_form(y, preprocessor):
    expected = losses.TripletMarginLoss()(Y, model_of("mse").predict(X, verbose=0))
    model = model_of(losses.TripletMarginLoss(), preprocessor, run_eagerly=True)
    assert model.evaluate(X, y, batch_size=12, verbose=0) == pytest.approx(
        float(expected), rel=1e-5
    )
    assert fitted(model, X, y) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("form", ["arrays", "dataset", "PyDataset", "one batch"])
def test_string_ids_under_xla(form):
    loss = losses.MultipleNegativesRankingLoss(exclude_equal_ids=True)
    expected = float(loss(Y, model_of("mse")((X, X))))
    model = model_of(loss, jit_compile=True)
    if form == "arrays":
        value = fitted(model, (X, X), NAMES)
    elif form == "one batch":
        value = model.train_on_batch((X, X), NAMES)
    else:
        batches = tfembloss.data.from_arrays((X, X), NAMES).batch(12)
        data = batches if form == "dataset" else Batches(((X, X), NAMES))
        value = fitted(model, data, batch_size=None)
    assert value == pytest.approx(expected, rel=1e-5)


def test_string_scores_are_no_ids():
    with pytest.raises(ValueError, match="Expected scores or labels"):
        model_of(losses.CoSENTLoss()).fit((X, X), NAMES, verbose=0)


def test_rows_as_lists():
    expected = fitted(label_model(), X, Y)
    for x in (X.tolist(), list(X)):
        assert fitted(label_model(), x, Y) == pytest.approx(expected)
        np.testing.assert_allclose(
            model_of("mse").predict(x, verbose=0),
            model_of("mse").predict(X, verbose=0),
            rtol=1e-6,
        )
    weights = {"sample_weight": [1.0] * 12}
    assert fitted(label_model(), X, Y, **weights) == pytest.approx(expected)


def test_a_list_of_two_arrays_is_two_columns():
    loss = losses.MultipleNegativesRankingLoss()
    expected = fitted(model_of(loss), (X, X[::-1].copy()))
    assert fitted(model_of(loss), [X, X[::-1].copy()]) == pytest.approx(expected)


def test_raw_batches_of_a_py_dataset_and_of_one_call():
    pair = (np.array(TEXTS[:2]), np.array(TEXTS[2:]))
    expected = fitted(text_model(), (TEXTS[:2], TEXTS[2:]))
    assert fitted(text_model(), Batches((pair,)), batch_size=None) == pytest.approx(
        expected
    )
    assert text_model().train_on_batch(pair) == pytest.approx(expected)
    assert text_model().train_on_batch((TEXTS[:2], TEXTS[2:])) == pytest.approx(expected)
    evaluated = text_model().evaluate((TEXTS[:2], TEXTS[2:]), verbose=0)
    assert text_model().test_on_batch(pair) == pytest.approx(evaluated)
    np.testing.assert_allclose(
        text_model().predict_on_batch(TEXTS), text_model().predict(TEXTS, verbose=0),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        text_model().predict(Batches(np.array(TEXTS)), verbose=0),
        text_model().predict(TEXTS, verbose=0), rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "weights, y", [({0: 2.0, 2: 0.0}, Y), ({"cat": 2.0, "cow": 0}, NAMES)]
)
def test_class_weights_are_sample_weights(weights, y):
    each = np.array([2.0, 1.0, 0.0])[Y]
    expected = fitted(label_model(), X, Y, sample_weight=each)
    for preprocessor in (None, tf.identity):
        model = model_of(losses.SupConLoss(), preprocessor, run_eagerly=True)
        assert fitted(model, X, y, class_weight=weights) == pytest.approx(
            expected, rel=1e-5
        )


# Preprocessors that augment.


@pytest.mark.parametrize("form", ["layers", "function", "with training"])
def test_augmentation_is_for_training(form):
    x = np.random.default_rng(0).normal(size=[6, 5, 5, 1]).astype("float32")
    seen = []

    class Flip(keras.layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return -x if training else x

    flip = Flip()
    preprocessor = {
        "layers": keras.Sequential([flip]),
        "function": lambda x: flip(x),
        "with training": lambda x, training=None: flip(x, training=training),
    }[form]
    encoder = keras.Sequential([keras.Input([5, 5, 1]), keras.layers.Flatten()])
    model = tfembloss.EmbeddingModel(encoder, preprocessor)
    model.compile("sgd", losses.SupConLoss())
    np.testing.assert_allclose(model.predict(x, verbose=0), x.reshape(6, -1), rtol=1e-6)
    assert not any(seen)
    seen.clear()
    batches = model.step_batches(tf.data.Dataset.from_tensors(x), training=True)
    np.testing.assert_allclose(next(iter(batches)), -x, rtol=1e-6)
    assert all(seen)
    with pytest.warns(UserWarning, match="trainable"):
        model.fit(x, Y[:6], validation_data=(x, Y[:6]), verbose=0)
    assert {bool(training) for training in seen} == {True, False}


# Mistakes.


@pytest.mark.parametrize(
    "loss, message",
    [
        ([losses.SupConLoss(), losses.CoSENTLoss()], "expected one loss"),
        ({"a": losses.SupConLoss()}, "expected one loss"),
        (losses.ArcFaceLoss(), "EmbeddingClassifier"),
        (losses.CosFaceLoss(), "EmbeddingClassifier"),
        (losses.ProxyAnchorLoss(), "EmbeddingClassifier"),
        (losses.NormalizedSoftmaxLoss(), "EmbeddingClassifier"),
        (losses.ProxyNCALoss(), "EmbeddingClassifier"),
        (losses.SoftmaxLoss(), "EmbeddingClassifier"),
        ("ArcFaceLoss", "EmbeddingClassifier"),
        ("arc_face_loss", "EmbeddingClassifier"),
    ],
)
def test_losses_that_do_not_fit_a_model(loss, message):
    with pytest.raises(ValueError, match=message):
        model_of(loss)


def test_a_loss_on_embeddings_does_not_see_a_head_of_classes():
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(3))
    with pytest.raises(ValueError, match="class scores"):
        model.compile("sgd", losses.SupConLoss())


@pytest.mark.parametrize(
    "loss", ["SupConLoss", "sup_con_loss", losses.SupConLoss, [losses.SupConLoss()]]
)
def test_a_loss_by_name_or_class(loss):
    expected = fitted(label_model(), X, Y)
    assert fitted(model_of(loss, run_eagerly=True), X, Y) == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [0, 2.5, -1, True, "8"])
def test_a_batch_size_that_is_none(batch_size):
    for model, x in ((model_of(losses.SupConLoss()), X), (text_model(), TEXTS)):
        with pytest.raises(ValueError, match=r"`batch_size` must be an integer >= 1"):
            model.fit(x, Y[: len(x)], batch_size=batch_size, verbose=0)
        with pytest.raises(ValueError, match=r"`batch_size` must be an integer >= 1"):
            model.predict(x, batch_size=batch_size, verbose=0)


@pytest.mark.parametrize(
    "model, arguments, message",
    [
        (lambda: text_model(), ({"anchor": TEXTS, "positive": TEXTS},), "one tuple"),
        (lambda: text_model(metrics=["accuracy"]), ((TEXTS, TEXTS),), "expected y"),
        (lambda: text_model(preprocessor=False), ((TEXTS, TEXTS),), "no preprocessor"),
        (lambda: model_of("mse"), (X, [1, None] * 6), "in row 1"),
    ],
)
def test_mistakes_are_explained_first(model, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        model().fit(*arguments, verbose=0)
    assert message.split()[0] in str(caught.value)[:250]


def columns_model():
    return model_of(losses.MultipleNegativesRankingLoss(), run_eagerly=True)


def label_model():
    return model_of(losses.SupConLoss(), run_eagerly=True)


def towers():
    model = tfembloss.DualEncoder(
        {
            name: keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
            for name in ("image", "text")
        }
    )
    model.compile("sgd", losses.CLIPLoss(), run_eagerly=True)
    return model


ROWS = tf.data.Dataset.from_tensor_slices(((X, X),))
MISTAKES = {
    "no x": (columns_model, (None,), {}, "as x. Received: x=None"),
    "a set as x": (columns_model, ({1.0},), {}, "as x. Received"),
    "no rows": (columns_model, ((X[:0], X[:0]),), {}, "at least one row"),
    "no batches": (columns_model, (ROWS.batch(4).take(0),), {}, "at least one batch"),
    "single rows": (columns_model, (ROWS,), {}, r"dataset\.batch\(32\)"),
    "no batches of unknown rank": (
        columns_model,
        (tf.data.Dataset.from_generator(lambda: iter([]), output_types=tf.float32),),
        {},
        "at least one batch",
    ),
    "single rows of unknown rank": (
        label_model,
        (
            tf.data.Dataset.from_generator(
                lambda: zip(X, Y, strict=True), output_types=("float", "int64")
            ),
        ),
        {},
        r"dataset\.batch\(32\)",
    ),
    "a set as y": (label_model, (X, {1, 2}), {}, "Expected y as an array or a list"),
    "a number as y": (label_model, (X, 1), {}, "Expected y as an array or a list"),
    "a dict as y": (label_model, (X, {"y": Y}), {}, "Expected y as an array or a list"),
    "words as weights": (label_model, (X, Y), {"sample_weight": ["a"] * 12}, "as an array"),
    "no weights": (label_model, (X, Y), {"sample_weight": [None] * 12}, "as an array"),
    "a list of class weights": (label_model, (X, Y), {"class_weight": [1]}, "as a dict"),
    "one tower": (towers, (X,), {}, r"\(image, text\).*1 column"),
    "three towers": (towers, ((X, X, X),), {}, r"\(image, text\).*3 column"),
    "other towers": (towers, ({"a": X, "text": X},), {}, r"\(image, text\).*'a', 'text'"),
    "no texts in one call": (text_model, (([], []),), {}, "at least one row"),
}


OF_DATASETS = [
    "no rows",
    "no batches",
    "single rows",
    "no batches of unknown rank",
    "single rows of unknown rank",
]


@pytest.mark.parametrize(
    "call, mistake",
    [("fit", mistake) for mistake in MISTAKES]
    + [("train_on_batch", mistake) for mistake in MISTAKES if mistake not in OF_DATASETS],
)
def test_mistakes_in_what_is_given(call, mistake):
    make, arguments, options, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        getattr(make(), call)(*arguments, **options)
    assert str(caught.value).startswith(("Expected", "`"))


def test_tensors_and_parts_of_arrays_train_as_arrays():
    expected = fitted(label_model(), X[:8], Y[:8])
    assert fitted(label_model(), tf.constant(X[:8]), Y[:8]) == expected
    assert fitted(label_model(), X, Y, validation_split=4 / 12) == expected
    split = columns_model().fit((X, X), validation_split=0.5, verbose=0)
    assert np.isfinite(split.history["val_loss"]).all()


def test_labels_in_a_tuple_a_series_and_a_generator():
    class Series:
        def __array__(self, dtype=None, copy=None):
            return np.array(Y, dtype)

        def __len__(self):
            return len(Y)

        def __iter__(self):
            return iter(Y)

    class Frame(Series):
        def __array__(self, dtype=None, copy=None):
            return np.array(Y[:, None], dtype)

        def __iter__(self):
            return iter(["label"])

    expected = fitted(label_model(), X, Y)
    assert fitted(label_model(), X, tuple(Y.tolist())) == expected
    assert fitted(label_model(), X, Series()) == expected
    assert fitted(label_model(), X, Frame()) == expected
    for y in (Y, NAMES, Y.tolist()):
        batches = (batch for batch in [(X, y)])
        one = fitted(label_model(), batches, batch_size=None, steps_per_epoch=1)
        assert one == pytest.approx(expected, rel=1e-6)
    rows = Batches((X.tolist(), Y.tolist()))
    assert fitted(label_model(), rows, batch_size=None) == pytest.approx(expected, rel=1e-6)


def test_labels_from_one_are_explained_first():
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(3))
    model.compile("sgd", losses.ArcFaceLoss())
    with pytest.raises(ValueError, match="from 0 to") as caught:
        model.fit(X, Y + 1, verbose=0)
    assert len(str(caught.value)) < 500
    assert np.isfinite(fitted(model, X, Y))


@pytest.mark.parametrize("outputs", ["dict", "list", "rank 3"])
def test_encoders_that_give_no_embeddings(outputs):
    i = keras.Input([4])
    e = keras.layers.Dense(3)(i)
    made = {"dict": {"a": e, "b": i}, "list": [e, i], "rank 3": keras.ops.expand_dims(e, 1)}
    for wrap in (
        tfembloss.EmbeddingModel,
        lambda encoder: tfembloss.EmbeddingModel(encoder, mini_batch_size=4),
        lambda encoder: tfembloss.DualEncoder({"a": encoder, "b": encoder}),
    ):
        model = wrap(keras.Model(i, made[outputs]))
        model.compile("sgd", losses.MultipleNegativesRankingLoss())
        with pytest.raises(ValueError, match="gives one tensor") as caught:
            model.fit((X, X), verbose=0)
        assert str(caught.value).startswith("Expected an encoder")


@pytest.mark.parametrize("texts", [False, True])
def test_after_an_error_the_corrected_call_works(texts):
    model, x = (text_model(), TEXTS) if texts else (model_of(losses.CoSENTLoss()), X)
    with pytest.raises(ValueError):
        model.fit(x, x, verbose=0)
    scores = None if texts else np.arange(12.0)
    assert np.isfinite(fitted(model, (x, x), scores))


def test_an_encoder_with_fewer_embeddings_than_the_vocabulary():
    preprocessor = tfembloss.text.TextPreprocessor(VOCABULARY, 8)
    for encoder in (
        tfembloss.text.TextEncoder(5, dim=8),
        keras.Sequential([keras.layers.Embedding(5, 8), keras.layers.Flatten()]),
    ):
        with pytest.raises(ValueError, match=r"vocabulary_size=len\(vocabulary\)"):
            tfembloss.EmbeddingModel(encoder, preprocessor)


def test_a_cosine_loss_takes_no_bias():
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.DualEncoder({"a": encoder, "b": encoder}, initial_bias=-10.0)
    with pytest.raises(ValueError, match="initial_bias"):
        model.compile("sgd", losses.MultipleNegativesRankingLoss())
    model.compile("sgd", losses.MultipleNegativesRankingLoss(similarity="dot"))


def test_every_loss_is_known_by_its_names():
    for name in ("ContrastiveTensionLossInBatchNegatives", "clip_loss", "SigLIPLoss"):
        model = model_of(name)
        assert isinstance(model.loss, losses.EmbeddingLoss)
    assert model_of("mse").loss == "mse"  # Keras's own


def test_weights_in_a_list_and_texts_in_a_generator():
    texts, weights = ["deep", "shallow"] * 3, [1.0, 2.0, 0.0] * 2
    losses_of = [
        text_model(losses.SupConLoss()).train_on_batch(texts, Y[:6], given)
        for given in (weights, np.array(weights))
    ]
    assert losses_of[0] == losses_of[1]
    with pytest.raises(ValueError, match="Expected sample_weight as an array"):
        text_model(losses.SupConLoss()).train_on_batch(texts, Y[:6], ["a"] * 6)
    mapped = batches.mapped_batches(iter([texts]), lambda x, y, weights: (x, y, weights))
    assert list(mapped) == [(texts,)]  # and not x, y and weights


def test_a_step_without_one_of_the_workers_names_the_cause(monkeypatch):
    model = label_model()
    monkeypatch.setattr(tfembloss.replicas, "has_several_workers", lambda strategy: True)
    lost = "Collective ops is aborted by: the other worker is gone"

    def train_step(data):
        raise tf.errors.UnavailableError(None, None, lost)

    model.train_step = train_step
    with pytest.raises(tf.errors.UnavailableError) as caught:
        model.fit(X, Y, verbose=0)
    assert caught.value.message.startswith("Expected all workers to take the same steps")
    assert lost in caught.value.message and "steps_per_epoch" in caught.value.message


def test_columns_of_unknown_rank():
    rows = lambda: iter([((X, X),), ((X[:5], X[:5]),)])  # noqa: E731
    batches = tf.data.Dataset.from_generator(rows, output_types=((tf.float32,) * 2,))
    model = columns_model()
    found = model.fit(batches, verbose=0).history["loss"]
    known = tf.data.Dataset.from_generator(
        rows, output_signature=((tf.TensorSpec([None, 4]),) * 2,)
    )
    assert found == pytest.approx(columns_model().fit(known, verbose=0).history["loss"])


def test_scalars_of_an_encoder_of_one_feature():
    encoder = keras.Sequential([keras.Input([1]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingModel(encoder)
    model.compile("sgd", losses.SupConLoss())
    batches = tf.data.Dataset.from_tensor_slices((X[:, 0], Y)).batch(4)
    assert np.isfinite(model.fit(batches, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("kind", ["numbers", "texts", "string labels"])
def test_datasets_of_unknown_rank(kind):
    """As from_generator with output_types, and numpy_function, give them."""
    x = np.array(["deep"] * 12) if kind == "texts" else X
    y = Y.astype("U") if kind == "string labels" else Y
    signature = tuple(
        tf.TensorSpec([None, *part.shape[1:]], tf.as_dtype(part.dtype)) for part in (x, y)
    )

    def batches(**types):
        rows = lambda: iter([(x, y), (x[:7], y[:7])])  # noqa: E731
        return tf.data.Dataset.from_generator(rows, **types)

    unknown = {"output_types": tuple(spec.dtype for spec in signature)}
    found = []
    for types in ({"output_signature": signature}, unknown):
        if kind == "texts":
            model = text_model(losses.SupConLoss(), run_eagerly=False)
        else:
            model = label_model()
        found.append(model.fit(batches(**types), verbose=0).history["loss"][0])
        assert np.isfinite(model.evaluate(batches(**types), verbose=0))
        assert len(model.predict(batches(**types), verbose=0)) == 19
    assert found[1] == pytest.approx(found[0], rel=1e-6)
