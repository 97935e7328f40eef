"""A batch that teaches little is said so once, wherever it comes from."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import data, losses

PAIRS = np.random.default_rng(0).normal(size=[2, 8, 3]).astype("float32")
SCORES = np.linspace(0, 5, 8)
DISTINCT, ONE, GOOD = np.arange(8), np.zeros(8, int), np.arange(8) % 4


def encoder():
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])


def model(loss, **options):
    made = tfembloss.EmbeddingModel(encoder(), **options)
    made.compile("sgd", loss, run_eagerly=True)  # what looks is outside of the step
    return made


class Batches(keras.utils.PyDataset):
    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.batch


WAYS = {
    "arrays": lambda model, x, y: model.fit(x, y, batch_size=8, verbose=0),
    "dataset": lambda model, x, y: model.fit(data.from_arrays(x, y).batch(8), verbose=0),
    "PyDataset": lambda model, x, y: model.fit(Batches(x, y), verbose=0),
    "generator": lambda model, x, y: model.fit(
        (batch for batch in [(x, y)]), steps_per_epoch=1, verbose=0
    ),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
}
MISTAKES = {
    "scores": (
        losses.CosineSimilarityLoss,
        PAIRS,
        SCORES,
        "cosines, from -1 to 1.* 0 to 5",
    ),
    "labels": (losses.ContrastiveLoss, PAIRS, SCORES, "for none, from 0 to 1.* 0 to 5 in"),
    "equal scores": (losses.CoSENTLoss, PAIRS, ONE, "all scores of a batch of 8"),
    "one class": (losses.TripletMarginLoss, PAIRS[0], ONE, "all rows of a batch of 8"),
    "all classes": (losses.SupConLoss, PAIRS[0], DISTINCT, "no two rows of a batch of 8"),
    "one row": (losses.MultipleNegativesRankingLoss, PAIRS[:, :1], None, "has one row"),
}


def inputs(x):
    return tuple(x) if x.ndim == 3 else x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mistake", ["scores", "one class", "one row"])
def test_models_warn_once_of_the_first_batch(way, mistake):
    make, x, y, message = MISTAKES[mistake]
    made = model(make())
    with pytest.warns(UserWarning, match=f"{make.__name__}: .*{message}"):
        WAYS[way](made, inputs(x), y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, message=make.__name__)
        WAYS[way](made, inputs(x), y)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_losses_warn_once_where_they_are_called_eagerly(mistake):
    make, x, y, message = MISTAKES[mistake]
    loss, x = make(), np.moveaxis(x, 0, 1) if x.ndim == 3 else x
    with pytest.warns(UserWarning, match=message):
        loss(y, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(y, x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make, x, y",
    [
        (losses.CosineSimilarityLoss, PAIRS, SCORES / 5),
        (losses.ContrastiveLoss, PAIRS, GOOD % 2),
        (losses.CoSENTLoss, PAIRS, SCORES),
        (losses.TripletMarginLoss, PAIRS[0], GOOD),
        (losses.MultipleNegativesRankingLoss, PAIRS, None),
    ],
)
def test_a_good_batch_says_nothing(way, make, x, y):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, message=make.__name__)
        WAYS[way](model(make()), inputs(x), y)


def test_sorted_rows_are_shuffled_before_they_are_dealt_out():
    y = np.repeat(np.arange(4), 64)
    x = np.ones([256, 3], "float32")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, message="Triplet")
        model(losses.TripletMarginLoss()).fit(x, y, verbose=0)
    with pytest.warns(UserWarning, match="TripletMarginLoss: all rows of a batch of 32"):
        model(losses.TripletMarginLoss()).fit(x, y, shuffle=False, verbose=0)


def test_a_memory_has_the_rows_that_a_batch_lacks():
    memory = tfembloss.layers.CrossBatchMemory(16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, message="SupCon")
        model(losses.SupConLoss(), memory=memory).fit(PAIRS[0], DISTINCT, verbose=0)


def test_texts_and_their_string_labels():
    vocabulary = tfembloss.text.learn_vocabulary(["a b c"], size=50)
    made = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(vocabulary), dim=4),
        tfembloss.text.TextPreprocessor(vocabulary, 4),
    )
    made.compile("sgd", losses.SupConLoss())
    with pytest.warns(UserWarning, match="no two rows of a batch of 3"):
        made.fit(["a", "b", "c"], ["x", "y", "z"], verbose=0)


def test_a_wrapped_loss_warns_as_the_loss_in_it():
    loss = losses.MatryoshkaLoss(losses.SupConLoss(), dims=[1, 2])
    with pytest.warns(UserWarning, match="MatryoshkaLoss: no two rows"):
        model(loss).fit(PAIRS[0], DISTINCT, verbose=0)


def test_under_xla_too():
    made = tfembloss.EmbeddingModel(encoder())
    made.compile("sgd", losses.SupConLoss(), jit_compile=True)
    batches = tf.data.Dataset.from_tensors((PAIRS[0], DISTINCT))
    with pytest.warns(UserWarning, match="no two rows"):
        made.fit(batches, verbose=0)
