"""Losses that users write: a constructor and a formula on one of the bases."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from goldens import plain_kernels  # noqa: F401

from tfembloss import losses, masks

COLUMNS = np.random.default_rng(0).normal(size=[8, 2, 4]).astype("float32")
IDS = np.arange(8) // 2


@keras.saving.register_keras_serializable("test_own_losses")
class OwnRanking(losses.InBatchLoss):
    def __init__(self, temperature=0.05, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    @staticmethod
    def formula(distances, positive, negative, *, temperature):
        logits = -distances / temperature
        log_sums = masks.row_logsumexp(logits, positive | negative)
        return log_sums - masks.row_sum(logits, positive)


@keras.saving.register_keras_serializable("test_own_losses")
class OwnPairs(losses.PairLoss):
    @staticmethod
    def formula(distances, positive, negative):
        far = masks.row_mean(distances, positive)
        return far, tf.ones_like(far)


def test_a_formula_is_a_loss():
    theirs = losses.MultipleNegativesRankingLoss(scale=20.0)
    np.testing.assert_allclose(OwnRanking()(None, COLUMNS), theirs(None, COLUMNS), 1e-6)
    own = OwnRanking(tile_size=3, exclude_equal_ids=True)
    theirs = losses.MultipleNegativesRankingLoss(exclude_equal_ids=True)
    np.testing.assert_allclose(own(IDS, COLUMNS), theirs(IDS, COLUMNS), 1e-6)
    x = COLUMNS[:4, 0]
    expected = np.linalg.norm(x[[0, 2]] - x[[1, 3]], axis=1).mean()
    np.testing.assert_allclose(OwnPairs("euclidean")(IDS[:4], x), expected, 1e-5)


def test_it_is_saved_by_its_constructor():
    loss = OwnRanking(0.2, tile_size=4, dtype="float64")
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert loaded.get_config() == loss.get_config()
    assert (loaded.temperature, loaded.tile_size, loaded.dtype) == (0.2, 4, "float64")


def test_an_argument_that_is_not_kept_is_named():
    class Forgetful(losses.InBatchLoss):
        def __init__(self, scale=1.0):
            super().__init__()

    with pytest.raises(ValueError, match="expected an attribute `scale`"):
        Forgetful().get_config()
    with pytest.raises(ValueError, match="Forgetful has no formula"):
        Forgetful()(None, COLUMNS)


def test_a_formula_that_does_not_fit_is_explained():
    class Misspelled(OwnRanking):
        @staticmethod
        def formula(distances, positive, negative, *, temperatur):
            return distances[:, 0]

    with pytest.raises(ValueError, match=r"Set self.temperatur in the constructor"):
        Misspelled()(None, COLUMNS)
    with pytest.raises(ValueError, match="Write @staticmethod above it"):

        class OfSelf(losses.PairLoss):
            def formula(self, batch):
                return batch
