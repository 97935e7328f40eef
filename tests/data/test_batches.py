import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import data


def elements(dataset):
    as_text = lambda x: x.decode() if isinstance(x, bytes) else x  # noqa: E731
    return [
        tf.nest.map_structure(lambda x: as_text(x.numpy()), element) for element in dataset
    ]


PAIRS = [(("a", "A"),), (("b", "B"),)]


@pytest.mark.parametrize(
    "arguments",
    [
        (["a", "b"], ["A", "B"]),
        (np.array(["a", "b"]), np.array(["A", "B"], object)),
        (tf.constant(["a", "b"]), ["A", "B"]),
        (tf.data.Dataset.from_tensor_slices((["a", "b"], ["A", "B"])),),
        tuple(map(tf.data.Dataset.from_tensor_slices, (["a", "b"], ["A", "B"]))),
    ],
    ids=["lists", "arrays", "tensors", "one dataset", "datasets"],
)
def test_columns_are_one_tuple(arguments):
    assert elements(data.columns(*arguments)) == PAIRS


def test_columns_of_batches_stay_batches():
    dataset = data.columns(
        tf.data.Dataset.from_tensor_slices((["a", "b"], ["A", "B"])).batch(2)
    )
    ((anchors, positives),) = next(iter(dataset))
    assert anchors.shape == positives.shape == (2,)


def test_columns_with_targets_and_weights():
    y, weights = [5, 6], [0.5, 1.0]
    arrays = data.columns(["a", "b"], ["A", "B"], y=y, sample_weight=weights)
    datasets = data.columns(
        tf.data.Dataset.from_tensor_slices((["a", "b"], ["A", "B"])),
        y=tf.data.Dataset.from_tensor_slices(y),
        sample_weight=tf.data.Dataset.from_tensor_slices(weights),
    )
    expected = [(("a", "A"), 5, 0.5), (("b", "B"), 6, 1.0)]
    assert elements(arrays) == elements(datasets) == expected
    assert arrays.element_spec[1].dtype == tf.int32


def test_weights_without_targets_are_kept():
    (_, targets, weight), _ = elements(
        data.columns(["a", "b"], ["A", "B"], sample_weight=[2, 3])
    )
    assert weight == 2 and targets.shape == (0,)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((), {}, "at least one column"),
        ((["a"], ["A", "B"]), {}, r"same number of rows.*\[1, 2\]"),
        (([("q", "a"), ("r", "b")],), {}, r"columns\(\*zip\(\*rows\)\)"),
        ((["a", "b", None], ["A"] * 3), {}, "None in row 2 of column 0, .*in 1 of 3"),
        ((["a"] * 2, ["A", float("nan")]), {}, "nan in row 1 of column 1"),
        (
            ({"anchor": ["a"], "positive": [None]},),
            {},
            "None in row 0 of column 'positive'",
        ),
        (({"d0": "a text", "d1": "another"},), {}, r"id to text.*list\(texts.values"),
        (({"d0": "a text"}, {"q0": "a text"}), {}, "id to text"),
        (({"a", "b"}, ["A", "B"]), {}, "a set as column 0, which has no order"),
        (([np.zeros(2), np.zeros(3)],), {}, r"row 1 of column 0 is of shape \(3,\)"),
        (([[1, 2], [1]],), {}, r"row 1 of column 0 is of shape \(1,\)"),
        ((["a"], 5), {}, "a single value as column 1, 5"),
        ((["a", "\ud800"],), {}, "row 1 of column 0, which UTF-8 cannot encode"),
        ((np.array(["2020"], "datetime64[Y]"),), {}, r"datetime64\[Y\] as column 0"),
        ((tf.ragged.constant([[1], [1, 2]]),), {}, r"\.to_tensor\(\)"),
        ((["a", "b"],), {"y": [1, None]}, "None in row 1 of y"),
        ((["a", "b"],), {"y": {"a": 1}}, r"a single value as y\['a'\]"),
        ((["a", "b"],), {"sample_weight": ["1", "2"]}, "numbers as sample_weight"),
        ((np.ma.masked_array([1, 2], [0, 1]),), {}, "None in row 1"),
        ((["a"], ["A"]), {"y": [1, 2]}, r"\[1, 1, 2\]"),
        (("one text", ["A"]), {}, "one string"),
        (([], []), {}, "at least one row"),
        ((["a", 1], ["A", "B"]), {}, "all of one type"),
        (((x for x in "ab"), ["A", "B"]), {}, "from_generator"),
        ((tf.data.Dataset.range(3), ["A"]), {}, "all as datasets"),
        ((tf.data.Dataset.range(3),), {}, "tuples of columns"),
        ((tf.data.Dataset.range(3), tf.data.Dataset.range(2)), {}, r"\[2, 3\]"),
        (
            (tf.data.Dataset.from_tensor_slices(((["a"], ["A"]), [1])),),
            {},
            "tuples of columns",
        ),
        (
            (tf.data.Dataset.range(3), tf.data.Dataset.range(3)),
            {"sample_weight": tf.data.Dataset.range(3)},
            "after y",
        ),
    ],
    ids=lambda argument: argument if isinstance(argument, str) else "",
)
def test_what_are_no_columns_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.columns(*arguments, **options)


class Series:
    """A data frame's column: a sequence that numpy reads, as objects."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, object)

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize(
    "column, expected",
    [
        (Series(["a", "b"]), "ab"),
        (Series([1, 2]), [1, 2]),
        (np.array([1.5, np.nan], object), [1.5, np.nan]),
        (np.array([True, False], object), [True, False]),
        ({"x": "a", "y": "b"}.values(), "ab"),
        ([b"a", "b"], "ab"),
        (("a", "b"), "ab"),
        ([np.array(["a"], object), np.array(["b"], object)], [["a"], ["b"]]),
    ],
    ids=["texts", "integers", "floats", "bools", "dict", "bytes", "tuple", "rows"],
)
def test_columns_of_any_container(column, expected):
    (dataset,) = (data.columns(column, [1, 2]),)
    found = [
        x.decode() if isinstance(x, bytes) else x
        for ((x, _),) in dataset.as_numpy_iterator()
    ]
    if isinstance(expected, list) and isinstance(expected[0], list):
        found = [[text.decode() for text in row] for row in found]
    assert all(a == b or (a != a and b != b) for a, b in zip(found, expected, strict=True))


def test_columns_of_a_dict_and_of_rows():
    assert elements(data.columns({"q": ["a", "b"], "a": ["A", "B"]})) == PAIRS
    assert elements(data.columns(*zip(("a", "A"), ("b", "B"), strict=True))) == PAIRS
    (row,) = elements(data.from_arrays({"q": ["a"], "a": ["A"]}, [1]))
    assert row == ({"q": "a", "a": "A"}, 1)


def test_split_rows_of_dicts():
    x = {"q": list("abcd"), "image": np.arange(8).reshape(4, 2)}
    (head, y, _), (tail, y_end, _) = data.split_rows((x, np.arange(4), None), 0.25)
    assert head["image"].shape == (3, 2) and tail["q"].numpy().tolist() == [b"d"]
    assert y.numpy().tolist() == [0, 1, 2] and y_end.numpy().tolist() == [3]
    with pytest.raises(ValueError, match=r"same number.*\[4, 4, 5\]"):
        data.split_rows((x, [1] * 5, None), 0.5)
    with pytest.raises(ValueError, match="None in row 1 of y"):
        data.split_rows((x, [1, None, 1, 1], None), 0.5)


def test_split_rows():
    parts = ((["a", "b", "c"], ["A", "B", "C"]), [1, 2, 3], None)
    (x, y, w), (x_end, y_end, w_end) = data.split_rows(parts, 0.3)
    assert [len(part) for part in (*x, y)] == [2, 2, 2] and w is w_end is None
    assert x_end[1].numpy().tolist() == [b"C"] and y_end.numpy().tolist() == [3]
    for fraction in (0.0, 1.0, "0.5", float("nan"), True):
        with pytest.raises(ValueError, match="both sides"):
            data.split_rows(parts, fraction)


# Balanced batches.

CLASS_SIZES = {
    "even": [8] * 6,
    "uneven": [1, 2, 3, 5, 8, 13, 40],
    "singletons": [1] * 9,
    "one dominates": [200, 1, 1, 2, 5],
    "as many classes as P": [3, 7, 30],
    "many": list(np.random.default_rng(0).integers(1, 9, size=300)),
}


def labels_of(sizes):
    """Labels of N items in random order, and for each item the size of its class."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(1).permutation(y)
    return y + 10**10, np.asarray(sizes)[y]  # no small numbers


def epochs_of(dataset, num_epochs=1):
    """Row numbers `[epochs, T, P K]` of a dataset whose x are row numbers."""
    return np.array([[x.numpy() for x, _ in dataset] for _ in range(num_epochs)])


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (3, 7)], ids=str)
@pytest.mark.parametrize("sizes", CLASS_SIZES.values(), ids=CLASS_SIZES)
def test_balanced_batches(sizes, shape):
    num_classes, num_items = shape
    y, class_size = labels_of(sizes)
    batches = data.balanced_batches(
        np.arange(len(y)),
        y,
        classes_per_batch=num_classes,
        items_per_class=num_items,
        seed=0,
    )
    groups = -(-np.array(sizes) // num_items)
    assert len(batches) == max(-(-sum(groups) // num_classes), max(groups))
    assert all(spec.shape == [num_classes * num_items] for spec in batches.element_spec)
    for x, label in batches:
        np.testing.assert_array_equal(label, y[x])
    for rows in epochs_of(batches, 3):
        # K of each of P classes in every batch, one class after the other.
        rows = rows.reshape(len(batches), num_classes, num_items)
        assert np.all(y[rows] == y[rows][:, :, :1])
        assert all(len(set(labels)) == num_classes for labels in y[rows][:, :, 0])
        # Every item, and those of one class equally often, give or take one.
        times = np.bincount(rows.ravel(), minlength=len(y))
        assert times.min() >= 1
        for label in set(y):
            assert np.ptp(times[y == label]) <= 1
        # None twice in a group, unless the class is too small for it.
        twice = [len(set(group)) < num_items for group in rows.reshape(-1, num_items)]
        assert not np.any(twice & (class_size[rows[:, :, 0].ravel()] >= num_items))
        # No class more often than it must: the classes' repeats are even.
        given = np.array([np.sum(y[rows][:, :, 0] == label) for label in sorted(set(y))])
        more = (given - groups)[given < len(batches)]  # the others are in every batch
        assert not len(more) or np.ptp(more) <= 1


def test_every_item_once_where_the_classes_allow_it():
    y, _ = labels_of([4, 8, 12, 16, 20])
    (rows,) = epochs_of(
        data.balanced_batches(np.arange(60), y, classes_per_batch=3, seed=0)
    )
    assert sorted(rows.ravel()) == list(range(60))


def test_epochs_differ_and_the_seed_decides_them():
    y, _ = labels_of(CLASS_SIZES["uneven"])
    make = lambda seed: data.balanced_batches(  # noqa: E731
        np.arange(len(y)), y, classes_per_batch=3, items_per_class=2, seed=seed
    )
    dataset = make(5)
    first = epochs_of(dataset, 3)
    assert len({epoch.tobytes() for epoch in first}) == 3
    np.testing.assert_array_equal(epochs_of(make(5), 3), first)
    np.testing.assert_array_equal(epochs_of(make(5).repeat(3)).reshape(first.shape), first)
    assert np.any(epochs_of(dataset) != first[:1])  # it has gone on
    assert np.any(epochs_of(make(6)) != first[:1])
    assert np.any(epochs_of(make(None)) != epochs_of(make(None)))
    unseeded = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        unseeded.append(epochs_of(make(None)))
    np.testing.assert_array_equal(*unseeded)


def test_who_meets_whom_is_left_to_chance():
    num_classes, per_batch = 12, 4
    y = np.repeat(np.arange(num_classes), 6)
    batches = data.balanced_batches(
        np.arange(len(y)), y, classes_per_batch=per_batch, items_per_class=2, seed=0
    )
    groups = epochs_of(batches, 200).reshape(-1, per_batch, 2)
    classes_met, items_met = np.zeros([12, 12]), np.zeros([72, 72])
    for classes in y[groups[:, :, 0]]:
        classes_met[np.ix_(classes, classes)] += 1
    np.add.at(items_met, tuple(groups.reshape(-1, 2).T), 1)
    items_met = (items_met + items_met.T)[y[:, None] == y]
    for met, most in ((classes_met[~np.eye(12, dtype=bool)], 12 * 11), (items_met, 360)):
        met = met[met > 0]
        assert len(met) == most
        assert met.min() > 0.5 * met.mean() and met.max() < 1.5 * met.mean()


def test_balanced_batches_read_a_dataset_once():
    reads = []

    def rows():
        reads.append("begun")
        for i in range(30):
            reads.append(i)
            yield (f"title {i}", {"image": [i, i]}), f"class {i % 7}"

    text, image = tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)
    source = tf.data.Dataset.from_generator(
        rows, output_signature=((text, {"image": image}), text)
    )
    dataset = data.balanced_batches(source, classes_per_batch=3, items_per_class=2)
    for _ in range(3):
        for (title, image), y in dataset:
            numbers = [int(text.split()[1]) for text in title.numpy()]
            assert np.array_equal(image["image"], np.transpose([numbers, numbers]))
            assert [f"class {i % 7}".encode() for i in numbers] == list(y.numpy())
    assert reads == ["begun", *range(30)]


def test_balanced_batches_of_every_kind_of_input():
    texts, y = list("abcdefgh"), np.array([1, 1, 2, 2, 3, 3, 4, 4])
    source = tf.data.Dataset.from_tensor_slices((texts, y))
    options = {"classes_per_batch": 2, "items_per_class": 2, "seed": 0}
    expected = elements(data.balanced_batches(texts, y, **options))
    for x in (np.array(texts), np.array(texts, object), source, source.batch(3)):
        labels = None if isinstance(x, tf.data.Dataset) else y.tolist()
        for found, wanted in zip(
            elements(data.balanced_batches(x, labels, **options)), expected, strict=True
        ):
            assert np.array_equal(found[0], wanted[0])
            assert np.array_equal(found[1], wanted[1])
    columns = data.balanced_batches(({"a": texts}, np.eye(8)), y, **options)
    (found, one_hot), _ = next(iter(columns))
    assert np.array_equal(found["a"], expected[0][0]) and one_hot.shape == [4, 8]


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((["a", "b"], [1, 2]), {"items_per_class": 1}, "nothing is positive.*class=1"),
        ((["a", "b"], [1, 2]), {"classes_per_batch": 1}, "nothing is negative.*batch=1"),
        ((["a", "b"], [1, 1]), {}, "classes_per_batch=2 classes. Received: 1 in 2"),
        ((["a", "b"], [1, 2, 3]), {}, r"\[2\] rows, 3 labels"),
        (((["a"], ["a", "b"]), [1, 2]), {}, r"\[1, 2\] rows, 2 labels"),
        (((), [1, 2]), {}, r"\[\] rows, 2 labels"),
        ((["a", "b"], [1.0, 2.0]), {}, "integers or strings.*float32"),
        ((["a", "b"], [[1, 0], [0, 1]]), {}, r"one-hot.*int32 of \(2, 2\)"),
        ((["a", "b"],), {}, "Received: None"),
        (([], []), {}, "at least one row"),
        (
            (["a", "b"], [1, float("nan")]),
            {},
            "leave out rows without a label.*NaN in row 1",
        ),
        ((["a", "b"], ["c", None]), {}, "None in row 1 of y"),
        ((["a", None], [1, 2]), {}, "None in row 1 of x"),
        ((["a", "b"], {1, 2}), {}, "a set as y"),
        (
            (["a", "b"], [1, 2]),
            {"classes_per_batch": True},
            "`classes_per_batch`.* integer",
        ),
        ((["a", "b"], [1, 2]), {"seed": True}, "`seed` must be an integer"),
        ((data.from_arrays(["a"], [1], [1.0]),), {}, r"\(x, y\), dense"),
        ((["a", "b"], [1, 2]), {"seed": -1}, "integer >= 0.*seed=-1"),
        ((["a", "b"], [1, 2]), {"items_per_class": 2.0}, "items_per_class.*2.0"),
        ((tf.data.Dataset.range(3),), {}, r"elements are \(x, y\)"),
        ((data.from_arrays(["a"], [1]), [1]), {}, "no y beside it"),
        ((data.from_arrays(["a"], [1]).repeat(),), {}, "a finite dataset"),
        ((data.from_arrays(["a"], [1]).take(0),), {}, "at least one element"),
        ((data.from_arrays(["a"], [1.5]),), {}, "integers or strings.*float32"),
        (
            (tf.data.Dataset.range(1, 3).map(lambda i: (tf.range(i), i)),),
            {},
            "one shape.*pad them",
        ),
    ],
)
def test_what_makes_no_balanced_batches_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.balanced_batches(*arguments, **{"classes_per_batch": 2, **options})


IMAGES = np.arange(24 * 5, dtype="float32").reshape(24, 1, 5)
CLASSES = (np.arange(24) % 6).astype("uint8")


def with_unknown_shapes(dataset):
    return tf.data.Dataset.from_generator(
        lambda: iter(dataset.as_numpy_iterator()), output_types=(tf.float32, tf.uint8)
    )


SOURCES = {
    "rows": lambda rows: rows,
    "shuffled": lambda rows: rows.shuffle(24).map(lambda x, y: (x, y)).prefetch(1),
    "batches": lambda rows: rows.batch(8),
    "uneven batches": lambda rows: rows.batch(7).map(lambda x, y: (x, y)),
    "static batches": lambda rows: rows.batch(8, drop_remainder=True).prefetch(1),
    "batches of one": lambda rows: rows.batch(1, drop_remainder=True),
    "batches of five": lambda rows: rows.batch(5).unbatch().take(20).batch(5, True),
    "unbatched": lambda rows: rows.batch(4, drop_remainder=True).unbatch(),
    "generated rows": with_unknown_shapes,
    "generated batches": lambda rows: with_unknown_shapes(rows.batch(8)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("labels", [CLASSES, CLASSES[:, None]], ids=["[N]", "[N, 1]"])
def test_rows_are_told_from_batches(source, labels):
    # Rows [1, 5] with labels [1] look like batches of one row.
    rows = tf.data.Dataset.from_tensor_slices((IMAGES, labels))
    batches = data.balanced_batches(source(rows), classes_per_batch=3, items_per_class=2)
    x, y = next(iter(batches))
    assert x.shape == (6, 1, 5) and y.shape == (6,)
    np.testing.assert_array_equal(CLASSES[x[:, 0, 0].numpy().astype(int) // 5], y)


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES[:, None],
        CLASSES.astype("int64"),
        CLASSES.tolist(),
        CLASSES[:, None].tolist(),
        CLASSES.astype(object),
        CLASSES.astype(str),
        CLASSES.astype("S"),
        CLASSES.astype(str)[:, None],
        [np.array([i]) for i in CLASSES],
        tuple(CLASSES.tolist()),
        Series(CLASSES.astype(str).tolist()),
        CLASSES % 2 == 0,
    ],
    ids=lambda y: f"{type(y).__name__} {getattr(y, 'dtype', '')}{np.shape(y)}",
)
def test_labels_of_any_container(labels):
    options = {"classes_per_batch": 2, "items_per_class": 4, "seed": 0}
    batches = data.balanced_batches(np.arange(24), labels, **options)
    flat = np.array(labels).ravel()
    for x, y in batches:
        assert y.shape == (8,)
        assert [str(v) for v in flat[x].tolist()] == [
            v.decode() if isinstance(v, bytes) else str(v) for v in y.numpy().tolist()
        ] or np.array_equal(flat[x], y)


@pytest.mark.parametrize("as_floats", [False, True])
def test_one_hot_labels_are_refused(as_floats):
    one_hot = np.eye(4, dtype="float32" if as_floats else "int32")[np.arange(12) % 4]
    images = np.zeros([12, 4])
    source = tf.data.Dataset.from_tensor_slices((images, one_hot))
    for arguments in ((images, one_hot), (source,), (source.batch(3),)):
        with pytest.raises(ValueError, match=r"\[N, 1\].*one-hot.*argmax"):
            data.balanced_batches(*arguments, classes_per_batch=2)


def test_classes_smaller_than_their_group_warn():
    with pytest.warns(UserWarning, match="items_per_class=4 rows, the largest one has 1"):
        data.balanced_batches(list("abc"), [1, 2, 3], classes_per_batch=2)


class PullTogether(tfembloss.losses.base.EmbeddingLoss):
    """Distance from the mean of the class in the batch; needs K of each of P in a row."""

    def call(self, y_true, y_pred):
        groups = tf.reshape(y_pred, [3, 2, -1])
        spread = tf.math.reduce_variance(groups, axis=1)
        return tf.repeat(tf.reduce_sum(spread, -1), 2)


@pytest.mark.parametrize("labels", ["integers", "strings"])
def test_fit_on_balanced_batches_of_texts(labels):
    texts = [
        f"{colour} {i}" for colour in ("red", "green", "blue", "grey") for i in range(5)
    ]
    y = [text.split()[0] if labels == "strings" else len(text) for text in texts]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    model = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(vocabulary), dim=8),
        tfembloss.text.TextPreprocessor(vocabulary, sequence_length=8),
    )
    model.compile("adam", loss=PullTogether())
    batches = data.balanced_batches(texts, y, classes_per_batch=3, items_per_class=2)
    if labels == "strings":  # the loss casts nothing: strings arrive
        assert batches.element_spec[1].dtype == tf.string
    history = model.fit(batches, epochs=3, verbose=0, validation_data=batches)
    assert history.history["loss"][-1] < history.history["loss"][0]


# Batches without duplicates.


def rows_and_texts(batches, columns):
    """Row numbers of each batch, checked to hold no text twice and to match the columns."""
    found = []
    for (row, *x), y in batches:
        rows = row.numpy().tolist()
        for column, values in zip(columns, x, strict=True):
            assert [column[i].encode() for i in rows] == values.numpy().tolist()
        texts = [{column[i] for column in columns} for i in rows]
        assert sum(map(len, texts)) == len(set().union(*texts))
        assert y.numpy().tolist() == [i % 3 for i in rows]
        found.append(rows)
    return found


REPEATS = {"none": 10**9, "few": 500, "many": 40, "hardly different": 3, "all the same": 1}


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("texts", [10**9, 500, 40], ids=["none", "few", "many"])
def test_batches_without_duplicates(texts, batch_size, drop_remainder):
    rng = np.random.default_rng(2)
    columns = [[f"text {i}" for i in rng.integers(texts, size=200)] for _ in range(2)]
    numbers = np.arange(200)  # bytes that are no texts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = data.batches_without_duplicates(
            (numbers, *columns),
            numbers % 3,
            batch_size=batch_size,
            drop_remainder=drop_remainder,
            seed=0,
        )
    for _ in range(2):
        found = rows_and_texts(batches, columns)
        rows = [row for batch in found for row in batch]
        assert len(set(rows)) == len(rows)
        assert [len(batch) for batch in found[: 200 // batch_size]] == [batch_size] * (
            200 // batch_size
        )
        # Every row once, in as many batches as tf.data makes.
        assert (
            len(found)
            == len(batches)
            == -(-200 // batch_size) - (drop_remainder and 200 % batch_size > 0)
        )
        assert drop_remainder or sorted(rows) == list(range(200))


@pytest.mark.parametrize("batch_size", [7, 300])
@pytest.mark.parametrize("texts", REPEATS.values(), ids=REPEATS)
def test_small_batches_are_kept_if_asked(texts, batch_size):
    rng = np.random.default_rng(2)
    columns = [[f"text {i}" for i in rng.integers(texts, size=200)] for _ in range(2)]
    batches = data.batches_without_duplicates(
        (np.arange(200), *columns),
        np.arange(200) % 3,
        batch_size=batch_size,
        keep_small_batches=True,
        seed=0,
    )
    for _ in range(3):
        found = rows_and_texts(batches, columns)
        assert len(found) == len(batches)
        assert sorted(row for batch in found for row in batch) == list(range(200))


def test_batches_without_duplicates_fill_up_where_they_can():
    answers = [f"answer {i % 40}" for i in range(400)]
    batches = data.batches_without_duplicates(answers, batch_size=20, seed=3)
    for _ in range(3):
        assert [len(batch) for batch in batches] == [20] * 20


def test_a_text_in_every_batch_has_its_place():
    # One text in exactly as many rows as there are batches: none may begin without it.
    answers = ["yes"] * 100 + [f"answer {i}" for i in range(900)]
    batches = data.batches_without_duplicates(answers, batch_size=10, seed=0)
    for _ in range(3):
        found = [batch.numpy().tolist() for batch in batches]
        assert len(found) == 100 and all(batch.count(b"yes") == 1 for batch in found)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_rows_without_a_place_are_left_out_and_counted(drop_remainder):
    answers = ["yes"] * 40 + [f"answer {i}" for i in range(160)]
    options = {"batch_size": 10, "drop_remainder": drop_remainder, "seed": 0}
    make = lambda: data.batches_without_duplicates(  # noqa: E731
        {"answer": answers, "row": np.arange(200)}, **options
    )
    # 17 batches hold at most 160 + 17 rows.
    with pytest.warns(
        UserWarning, match=r"30 of 200 rows.*17 batches of 10.*'yes' is in 40"
    ):
        batches = make()
    assert len(batches) == 17
    used = []
    for _ in range(6):
        found = [batch["row"].numpy().tolist() for batch in batches]
        assert [len(batch) for batch in found] == [10] * 17
        assert all(sum(row < 40 for row in batch) <= 1 for batch in found)
        used.append({row for batch in found for row in batch})
        assert len(used[-1]) == 170
    assert len(set.union(*used)) > 190 and used[0] != used[1]
    if not drop_remainder:
        options["keep_small_batches"] = True
        sizes = [len(batch["row"]) for batch in make()]
        assert sizes[:17] == [10] * 17 and sum(sizes) == 200 and max(sizes[18:]) < 10


def test_fewer_rows_than_a_batch_make_one():
    with pytest.warns(UserWarning, match="1 of 4 rows are left out"):
        batches = data.batches_without_duplicates(list("abca"), batch_size=32)
    assert sorted(x for (x,) in batches.unbatch().batch(1).as_numpy_iterator()) == [
        b"a",
        b"b",
        b"c",
    ]


def test_fit_counts_the_same_batches_in_every_epoch():
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in rng.integers(30, size=100)]
    batches = data.batches_without_duplicates(texts, batch_size=8, seed=0)
    sizes = [[len(batch) for batch in batches] for _ in range(20)]
    assert sizes == [[8] * 12 + [4]] * 20 and batches.cardinality() == 13


MAKERS = {
    "balanced": lambda: data.balanced_batches(
        np.arange(24), CLASSES, classes_per_batch=3, items_per_class=2, seed=1
    ).map(lambda x, y: tf.cast(x, tf.int64)),
    "without duplicates": lambda: data.batches_without_duplicates(
        np.arange(24), CLASSES, batch_size=5, seed=1
    ).map(lambda x, y: tf.cast(x, tf.int64)),
    "contrastive tension": lambda: data.contrastive_tension_batches(
        [str(i) for i in range(24)], batch_size=5, seed=1
    ).map(lambda x, y: tf.strings.to_number(x[0], tf.int64)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_epochs_under_repeat_take_and_two_iterators(make):
    flat = lambda batches: np.concatenate([batch.numpy() for batch in batches])  # noqa: E731
    dataset = make()
    first, second = flat(dataset), flat(dataset)
    np.testing.assert_array_equal(flat(make().repeat(2)), [*first, *second])
    np.testing.assert_array_equal(
        flat(make().take(2).prefetch(2)), first[: len(flat(make().take(2)))]
    )
    options = tf.data.Options()
    options.deterministic = True
    np.testing.assert_array_equal(flat(make().with_options(options)), first)
    # Two at once are two epochs, each whole.
    dataset = make()
    both = list(zip(dataset, dataset, strict=True))
    one, other = flat([a for a, _ in both]), flat([b for _, b in both])
    assert set(one) == set(other) == set(range(24))
    np.testing.assert_array_equal([one, other], [first, second])


def test_epochs_without_duplicates_differ_and_the_seed_decides_them():
    texts = [f"{i % 30}" for i in range(90)]
    make = lambda seed: data.batches_without_duplicates(  # noqa: E731
        {"a": texts, "row": np.arange(90)}, batch_size=8, seed=seed
    )
    epochs = lambda dataset: [  # noqa: E731
        tuple(np.concatenate([batch["row"] for batch in dataset])) for _ in range(3)
    ]
    first = epochs(make(5))
    assert len(set(first)) == 3
    assert epochs(make(5)) == first != epochs(make(6))
    unseeded = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        unseeded.append(epochs(make(None)))
    assert unseeded[0] == unseeded[1] != epochs(make(None))


def test_no_duplicates_of_every_kind_of_input():
    texts, others, scores = list("abca"), list("wxyz"), [0.1, 0.2, 0.3, 0.4]
    images = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], "float32")
    options = {"batch_size": 2, "seed": 0}
    source = tf.data.Dataset.from_tensor_slices
    make = lambda *x: [  # noqa: E731
        tf.nest.map_structure(lambda part: part.numpy().tolist(), element)
        for element in data.batches_without_duplicates(*x, **options)
    ]
    pair = (texts, others)
    assert make(texts) == make(source(texts)) == make(source((texts,)).batch(3))
    assert make(pair) == make(source((pair,))) == make(source((pair,)).batch(3))
    assert make(texts, scores) == make(source((texts, scores)).batch(3))
    assert make(images, [1, 2, 3, 4]) == make(source((images, [1, 2, 3, 4])).batch(2))
    for batch, _ in make(images, [1, 2, 3, 4]):
        assert len({tuple(image) for image in batch}) == len(batch)
    ((x,), *_) = make(pair)
    assert len(x) == 2  # (x,), so that Keras reads no y


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((["a"],), {"batch_size": 0}, "integer >= 1.*batch_size=0"),
        ((["a"],), {"batch_size": True}, "integer >= 1.*batch_size=True"),
        ((["a"],), {"drop_remainder": "no"}, "`drop_remainder` must be True or False"),
        (
            (["a"],),
            {"drop_remainder": True, "keep_small_batches": True},
            "Received: both",
        ),
        ((["a"] * 4,), {}, "smaller batch_size"),
        ((["a"],), {"drop_remainder": True}, "Received: 1 rows"),
        ((["a", None],), {}, "None in row 1 of x"),
        (({"q": ["a"], "a": [None]},), {}, "None in row 0 of column 'a'"),
        (({"id": "a text"},), {}, "id to text"),
        ((["a"],), {"batch_size": 2.0}, "integer >= 1.*batch_size=2.0"),
        ((["a"],), {"batch_size": None}, "integer >= 1.*batch_size=None"),
        ((["a"],), {"seed": -1}, "`seed` must be an integer >= 0"),
        ((["a", "b"], [1]), {}, r"\[2\] rows, 1 labels or scores"),
        (((["a", "b"], ["a"]),), {}, r"\[2, 1\] rows\."),
        (((),), {}, "at least one column"),
        ((tf.data.Dataset.range(3),), {}, "with a text in x"),
        ((data.from_arrays(["a"], [1]), [1]), {}, "no y beside it"),
        ((data.from_arrays(["a"], [1], [1]),), {}, r"\(x,\) or \(x, y\)"),
        ((data.from_arrays(["a"]).repeat(),), {}, "a finite dataset"),
        ((data.from_arrays(["a"]).take(0),), {}, "at least one element"),
    ],
)
def test_what_makes_no_batches_without_duplicates(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.batches_without_duplicates(*arguments, **{"batch_size": 2, **options})


@pytest.mark.parametrize("static", [False, True])
def test_rows_of_several_texts_are_no_batches(static):
    rows = tf.data.Dataset.from_tensor_slices(
        np.array([["a", "b"], ["c", "d"], ["e", "f"]])
    )
    source = rows.batch(3, drop_remainder=static)
    for dataset in (rows, source):
        (batch,) = data.batches_without_duplicates(dataset, batch_size=3)
        assert batch.shape == (3, 2)


def test_fit_on_batches_without_duplicates():
    texts = [f"text {i}" for i in range(12)]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=60)
    model = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(vocabulary), dim=8),
        tfembloss.text.TextPreprocessor(vocabulary, sequence_length=8),
    )
    model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    batches = data.batches_without_duplicates((texts, texts[:6] * 2), batch_size=5)
    history = model.fit(batches, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


# Pairs for contrastive tension.


def test_contrastive_tension_batches():
    texts = [f"text {i}" for i in range(100)]
    make = lambda seed: data.contrastive_tension_batches(  # noqa: E731
        texts, batch_size=16, seed=seed
    )
    batches, epochs = make(3), []
    assert len(batches) == 7
    for _ in range(2):
        rows = [
            row
            for (a, b), y in batches.as_numpy_iterator()
            for row in zip(a, b, y, strict=True)
        ]
        assert sorted(a.decode() for a, _, _ in rows) == sorted(texts)
        assert [y for _, _, y in rows] == [int(i % 8 == 0) for i in range(100)]
        assert all((a == b) == y for a, b, y in rows)
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    again = [a for (texts, _), _ in make(3).as_numpy_iterator() for a in texts]
    assert again == [a for a, _, _ in epochs[0]]
    assert (
        len(data.contrastive_tension_batches(texts, batch_size=16, drop_remainder=True))
        == 6
    )
    source = tf.data.Dataset.from_tensor_slices(texts).batch(30)
    of_source = data.contrastive_tension_batches(source, batch_size=16, seed=3)
    assert [a for (a, _), _ in of_source.unbatch().as_numpy_iterator()] == again
    # A copy of a text is the same.
    _, labels = next(iter(data.contrastive_tension_batches(["a", "a"], batch_size=2)))
    assert labels.numpy().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a"], {"batch_size": 2}, r"at least two texts.*shape \(1,\)"),
        ([1, 2], {"batch_size": 2}, "strings.*int32"),
        (["a", "b"], {"batch_size": 0}, "integer >= 1.*batch_size=0"),
        (["a", "b"], {"batch_size": 2.5}, "integer >= 1.*batch_size=2.5"),
        (
            ["a", "b"],
            {"batch_size": 2, "pos_neg_ratio": 1},
            "`pos_neg_ratio` must be an integer >= 2. Received: pos_neg_ratio=1",
        ),
        (["a", "b"], {"batch_size": 3, "drop_remainder": True}, "batch_size=3 texts"),
        (["a", "b"], {"batch_size": True}, "`batch_size` must be an integer"),
        (["a", None], {"batch_size": 2}, "None in row 1 of x"),
        ({"d0": "a", "d1": "b"}, {"batch_size": 2}, "id to text"),
        ((["a", "b"], ["c", "d"]), {"batch_size": 2}, "one column of texts"),
        (["a", "b"], {"batch_size": 2, "pos_neg_ratio": 2.5}, "pos_neg_ratio=2.5"),
        (["a", "b"], {"batch_size": 2, "seed": -1}, "`seed` must be an integer >= 0"),
    ],
)
def test_what_makes_no_pairs_is_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        data.contrastive_tension_batches(texts, **options)
