"""One stream of batches from several datasets."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import data, losses


def dataset(size, first=0):
    """`size` batches of two numbers, from first on."""
    return tf.data.Dataset.range(first, first + 2 * size).batch(2)


def sources(batches):
    """From which dataset each batch is: those of `three` are of different thousands."""
    firsts = [int(batch[0]) for batch in batches.as_numpy_iterator()]
    return [first // 1000 for first in firsts], firsts


def three(*sizes):
    names = ("a", "b", "c")
    return {name: dataset(size, 1000 * i)
            for i, (name, size) in enumerate(zip(names, sizes, strict=False))}  # fmt: skip


@pytest.mark.parametrize("stop", ["all_exhausted", "first_exhausted"])
def test_in_proportion_every_batch_comes_once(stop):
    batches = data.mix(three(2, 5, 9), stop=stop, seed=1)
    of, firsts = sources(batches)
    assert len(batches) == 16 and collections.Counter(of) == {0: 2, 1: 5, 2: 9}
    assert len(set(firsts)) == 16 and of != sorted(of)
    for source in range(3):  # in the dataset's own order
        own = [first for s, first in zip(of, firsts, strict=True) if s == source]
        assert own == sorted(own)
    assert sources(batches)[0] == of  # the same in every epoch
    assert sources(data.mix(three(2, 5, 9), stop=stop, seed=1))[0] == of
    assert sources(data.mix(three(2, 5, 9), stop=stop, seed=2))[0] != of


def test_in_turn():
    of, firsts = sources(data.mix(three(2, 3), "round_robin"))
    assert of == [0, 1] * 3 and firsts == [0, 1000, 2, 1002, 0, 1004]  # a begins again
    of, _ = sources(data.mix(three(2, 3), "round_robin", stop="first_exhausted"))
    assert of == [0, 1] * 2


def test_a_temperature_favors_small_datasets():
    counts = {
        alpha: collections.Counter(
            sources(data.mix(three(4, 64), "temperature", alpha=alpha))[0]
        )
        for alpha in (0, 0.5, 1)
    }
    assert counts[1] == {0: 4, 1: 64}
    assert counts[0.5] == {0: 16, 1: 64}  # 2 to 8
    assert counts[0] == {0: 64, 1: 64}
    fewer = data.mix(three(4, 64), "temperature", stop="first_exhausted")
    assert collections.Counter(sources(fewer)[0]) == {0: 4, 1: 16}


def test_weights():
    weights = {"a": 3, "b": 1, "c": 0}
    of, firsts = sources(data.mix(three(6, 4, 2), weights=weights))
    assert collections.Counter(of) == {0: 12, 1: 4}
    assert {first for first in firsts if first < 1000} == set(range(0, 12, 2))
    of, _ = sources(data.mix(three(6, 4, 2), weights=weights, stop="first_exhausted"))
    assert collections.Counter(of) == {0: 6, 1: 2}


def test_a_large_and_a_small_share_lose_no_batch():
    """Shares like 1/3 are not exact."""
    for sizes in ((1, 1, 1), (3, 3, 3), (7, 49, 343), (10, 20, 30)):
        of, _ = sources(data.mix(three(*sizes)))
        assert tuple(collections.Counter(of)[i] for i in range(3)) == sizes


def test_a_model_trains_on_it():
    x = np.random.default_rng(0).normal(size=[2, 12, 4]).astype("float32")
    pairs = {
        name: data.columns(part[0], part[1]).batch(size)
        for name, part, size in (("one", x, 4), ("other", 2 * x, 3))
    }
    keras.utils.set_random_seed(0)
    model = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(3)]))
    model.compile("sgd", losses.MultipleNegativesRankingLoss())
    batches = data.mix(pairs)
    assert len(batches) == 7
    history = model.fit(batches, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    "datasets, options, message",
    [
        ([dataset(2)], {}, "dict of name"),
        ({}, {}, "dict of name"),
        ({"a": [1, 2]}, {}, "list as 'a'"),
        (three(2, 0), {}, "none in 'b'"),
        ({"a": dataset(2).repeat()}, {}, "'a' is infinite"),
        (
            {"a": dataset(2).filter(lambda x: True)},
            {},
            "'a' is unknown.*assert_cardinality",
        ),
        (
            {"a": dataset(2), "b": tf.data.Dataset.zip(dataset(2), dataset(2))},
            {},
            "same columns.*'a' of .*'b' of",
        ),
        (three(1, 2), {"strategy": "random"}, "'proportional', 'temperature'"),
        (three(1, 2), {"weights": {"a": 1, "x": 1}}, r"each of \['a', 'b'\]"),
        (three(1, 2), {"weights": {"a": 0, "b": 0}}, "a weight above 0"),
        (three(1, 2), {"weights": {"a": -1, "b": 0}}, "`weights` must be a number >= 0"),
        (three(1, 2), {"stop": "never"}, "'all_exhausted', 'first_exhausted'"),
        (three(1, 2), {"seed": -1}, "`seed`"),
        (three(1, 2), {"strategy": "temperature", "alpha": -1}, "`alpha`"),
    ],
)
def test_bad_arguments(datasets, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        data.mix(datasets, **options)
