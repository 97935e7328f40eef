import numpy as np
import pytest
import tensorflow as tf

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
)
def test_what_are_no_columns_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.columns(*arguments, **options)


def test_split_rows():
    parts = ((["a", "b", "c"], ["A", "B", "C"]), [1, 2, 3], None)
    (x, y, w), (x_end, y_end, w_end) = data.split_rows(parts, 0.3)
    assert [len(part) for part in (*x, y)] == [2, 2, 2] and w is w_end is None
    assert x_end[1].numpy().tolist() == [b"C"] and y_end.numpy().tolist() == [3]
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="both sides"):
            data.split_rows(parts, fraction)
