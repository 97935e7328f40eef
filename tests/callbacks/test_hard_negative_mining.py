"""Training on negatives that are mined anew with the model as it is then."""

import functools
import string

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import losses, synthesis
from tfembloss.callbacks import HardNegativeMining, ResumableCheckpoint

RNG = np.random.default_rng(0)
QUERIES, ANSWERS = (
    ["".join(RNG.choice(list(string.ascii_letters), n, replace=False)) for _ in range(14)]
    for n in (6, 8)
)
STEPS = 2  # of 8 rows in an epoch, the last of 6


def tokens(texts):
    """The bytes of each text, a tokenizer that takes no time to trace."""
    return tf.cast(tf.io.decode_raw(texts, tf.uint8, fixed_length=8), tf.int32)


def make_model():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Embedding(128, 6),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dropout(0.3),
    ]
    model = tfembloss.EmbeddingModel(keras.Sequential(layers), tokens)
    loss = losses.MultipleNegativesRankingLoss(scale=5.0)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, run_eagerly=True)
    return model


def make_mining(corpus=ANSWERS, positives=ANSWERS, **options):
    options = {"num_negatives": 2, "seed": 3, "verbose": 0, **options}
    return HardNegativeMining(QUERIES, corpus, positives, **options)


def rows_of_epochs(mining, epochs=3, model=None, **options):
    """The texts of each epoch's rows; the model is not trained."""
    batches, found = mining.batches(8, **options), []
    mining.set_model(model or make_model())
    for epoch in range(epochs):
        mining.on_epoch_begin(epoch)
        columns = [np.stack(x, axis=1) for (x,) in batches.as_numpy_iterator()]
        rows = np.concatenate(columns)
        found.append([[text.decode() for text in row] for row in rows])
    return found


def train(*callbacks, **options):
    """All numbers that a training leaves."""
    model, mining = make_model(), make_mining(**options)
    callbacks = [mining, *callbacks]
    model.fit(mining.batches(8), epochs=3, callbacks=callbacks, verbose=0)
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


@functools.cache
def whole(**options):
    return train(**options)


def assert_equal(numbers, expected):
    for ours, others in zip(numbers, expected, strict=True):
        np.testing.assert_allclose(ours, others, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frequency", [1, 2])
def test_an_epoch_has_the_negatives_of_the_model_at_its_beginning(frequency):
    orders = rows_of_epochs(make_mining())
    model = make_model()
    for epoch in range(3):
        if epoch % frequency == 0:
            mined = synthesis.mine_hard_negatives(
                QUERIES, ANSWERS, ANSWERS, model, num_negatives=2, verbose=0
            )
        row_of = {row[0]: row for row in zip(*mined.tuples(), strict=True)}
        rows = [row_of[query] for query, *_ in orders[epoch]]
        columns = tfembloss.data.columns(*zip(*rows, strict=True))
        model.fit(columns.batch(8), verbose=0)
    expected = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    assert_equal(whole(frequency=frequency), expected)


def test_it_matters_when_they_are_mined():
    once, twice = whole(frequency=2), whole(frequency=1)
    assert np.abs(once[0] - twice[0]).max() > 1e-3


def test_the_order_follows_from_the_seed_and_the_epoch():
    first, again, other = (
        [[row[:2] for row in rows] for rows in rows_of_epochs(make_mining(seed=seed))]
        for seed in (3, 3, 4)
    )
    assert first == again and first != other
    assert first[0] != first[1]
    for rows in first:
        assert sorted(rows) == sorted([q, a] for q, a in zip(QUERIES, ANSWERS, strict=True))


@pytest.mark.parametrize(
    "options", [{"warmup_epochs": 3}, {"max_score": -1.0}, {"relative_margin": 0.5}]
)
def test_random_texts_take_the_place_of_missing_ones(options):
    positives = [[text, ANSWERS[i - 1]] for i, text in enumerate(ANSWERS)]
    corpus = [*ANSWERS, *QUERIES[:3], "1"]
    epochs = rows_of_epochs(make_mining(corpus, positives, **options), shuffle=False)
    known = dict(zip(QUERIES, positives, strict=True))
    for rows in epochs:
        assert [row[:2] for row in rows] == [[q, a] for q in known for a in known[q]]
        for query, _, *negatives in rows:
            assert len({*negatives} - {query, *known[query]}) == 2
            assert {*negatives} <= {*corpus}
    assert epochs[0] != epochs[1] != epochs[2]


def test_few_other_texts_repeat():
    (rows,) = rows_of_epochs(make_mining([*ANSWERS[:2], "1"], ANSWERS[:1] * 14), 1)
    assert all({*row[2:]} == {ANSWERS[1], "1"} for row in rows)
    (rows,) = rows_of_epochs(make_mining(["1"]), 1)
    assert all(row[2:] == ["1", "1"] for row in rows)


def test_warmup_ends_with_the_first_mining():
    model = make_model()
    mining = make_mining(warmup_epochs=1, frequency=2, num_negatives=1)
    random, mined, *others = rows_of_epochs(mining, 4, model, shuffle=False)
    expected = synthesis.mine_hard_negatives(
        QUERIES, ANSWERS, ANSWERS, model, num_negatives=1, verbose=0
    )
    assert mined == [list(row) for row in zip(*expected.tuples(), strict=True)] != random
    assert others == [mined, mined]


def test_a_random_sample_is_another_in_each_epoch():
    mining = make_mining(sampling="random", num_negatives=1)
    (first, second) = rows_of_epochs(mining, 2, shuffle=False)
    assert first != second


# Resuming.


class StoppedError(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """Stops after a step, counted over all epochs."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == self.after:
            raise StoppedError


@pytest.mark.parametrize(("after", "frequency"), [(STEPS + 1, 2), (2 * STEPS + 1, 1)])
def test_it_resumes_with_the_negatives_that_it_had(after, frequency, tmp_path):
    """The weights have changed since they were mined, in an earlier epoch or in this."""
    backup = functools.partial(ResumableCheckpoint, tmp_path / "backup", save_freq=1)
    with pytest.raises(StoppedError):
        train(backup(), Stop(after), frequency=frequency)
    assert_equal(train(backup(), frequency=frequency), whole(frequency=frequency))


def test_a_backup_of_whole_epochs_mines_again(tmp_path):
    backup = functools.partial(keras.callbacks.BackupAndRestore, tmp_path / "backup")
    with pytest.raises(StoppedError):
        train(backup(), Stop(STEPS + 1), frequency=1)
    assert_equal(train(backup(), frequency=1), whole(frequency=1))


def test_a_checkpoint_of_other_pairs_is_refused(tmp_path):
    backup = functools.partial(ResumableCheckpoint, tmp_path / "backup", save_freq=1)
    with pytest.raises(StoppedError):
        train(backup(), Stop(1))
    with pytest.raises(
        ValueError, match=r"differs is negatives \(14, 3\) int32 of the cal"
    ):
        train(backup(), num_negatives=3)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequency": 0}, "`frequency` must be an integer >= 1"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be an integer >= 0"),
        ({"num_negatives": 0}, "`num_negatives` must be an integer >= 1"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"sampling": "best"}, "Expected sampling='top'"),
        ({"range_max": 1}, "Expected range_max >= range_min"),
        ({"relative_margin": "5%"}, "Expected a finite number or None"),
        ({"distance": "far"}, "far"),
        ({"cross_encoder": 3}, "Expected `cross_encoder` as a Keras model"),
        ({"corpus": [3.0]}, "corpus as a list of strings"),
        ({"positives": ANSWERS[:5]}, "14 queries, positives for 5"),
        ({"corpus": [QUERIES[0], ANSWERS[0]]}, r"text of the corpus besides.*in a corpus"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make_mining(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"drop_remainder": 1}, "`drop_remainder` must be True or False"),
        ({"shuffle": None}, "`shuffle` must be True or False"),
    ],
)
def test_arguments_of_batches(options, message):
    with pytest.raises(ValueError, match=message):
        make_mining().batches(**options)


def test_batches_need_the_callback():
    message = (
        r"^Expected the HardNegativeMining.*in `fit`'s callbacks.*callbacks=\[mining\]"
    )
    with pytest.raises(ValueError, match=message):
        make_model().fit(make_mining().batches(8), verbose=0)


def test_the_callback_needs_its_batches():
    mining = make_mining()
    with pytest.raises(ValueError, match="other batches in epoch 0, counted from 0"):
        make_model().fit((QUERIES, ANSWERS), callbacks=[mining], verbose=0)
    batches = mining.batches(8).cache()
    with pytest.raises(ValueError, match=r"without cache\(\).*other batches in epoch 1"):
        make_model().fit(batches, epochs=2, callbacks=[mining], verbose=0)


def test_epochs_are_whole():
    mining = make_mining()
    with pytest.raises(ValueError, match=r"steps_per_epoch=2\. Leave it out"):
        batches = mining.batches(8).repeat()
        make_model().fit(batches, steps_per_epoch=2, callbacks=[mining], verbose=0)


def test_a_model_of_something_else():
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(5)])
    model = tfembloss.EmbeddingModel(encoder)
    model.compile("adam", losses.MultipleNegativesRankingLoss())
    mining = make_mining()
    with pytest.raises(ValueError, match=r"`model` as a model that takes texts.*Wrap it"):
        model.fit(mining.batches(8), callbacks=[mining], verbose=0)
