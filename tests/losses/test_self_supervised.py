"""Losses on views of unlabeled rows."""

import numpy as np
import pytest
import tensorflow as tf

from tfembloss import losses, miners

VIEWS = np.random.default_rng(0).normal(size=[8, 2, 4]).astype("float32")


def test_views_are_classes_of_their_own():
    loss = losses.NTXentLoss(temperature=0.5)
    ids, rows = np.repeat(np.arange(8), 2), VIEWS.reshape([16, 4])
    expected = float(loss(ids, rows))
    assert float(losses.SelfSupervisedLoss(loss)(None, VIEWS)) == pytest.approx(expected)
    mined = losses.TripletMarginLoss(miner=miners.BatchHardMiner())
    expected = float(mined(ids, rows))
    assert float(losses.SelfSupervisedLoss(mined)(None, VIEWS)) == pytest.approx(expected)


def test_an_easy_positive_does_not_lessen_the_negatives():
    """The gradient in an anchor whose positive is equal to it."""
    views = tf.constant(np.concatenate([VIEWS[:1, :1], VIEWS[:1, :1]], 1))
    views = tf.concat([views, VIEWS[1:]], axis=0)

    def gradient(loss):
        with tf.GradientTape() as tape:
            tape.watch(views)
            value = losses.SelfSupervisedLoss(loss, symmetric=False)(None, views)
        return np.linalg.norm(tape.gradient(value, views)[0, 0])

    coupled, decoupled = losses.NTXentLoss(0.05), losses.DecoupledContrastiveLoss(0.05)
    assert gradient(decoupled) > 10 * gradient(coupled)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: losses.SelfSupervisedLoss(losses.CoSENTLoss()), "on labeled rows"),
        (
            lambda: losses.SelfSupervisedLoss(
                losses.NTXentLoss(miner=miners.BatchHardMiner()), symmetric=False
            ),
            "without a miner with symmetric=False.*BatchHardMiner",
        ),
        (
            lambda: losses.SelfSupervisedLoss(losses.SupConLoss(), False)(
                None, np.zeros([3, 3, 4])
            ),
            "n = 2",
        ),
        (lambda: losses.VICRegLoss()(None, VIEWS[:, 0]), "columns .* n = 2"),
        (lambda: losses.VICRegLoss(eps=0.0), "eps"),
        (lambda: losses.BarlowTwinsLoss(redundancy_weight=-1), "redundancy_weight"),
        (lambda: losses.AlignmentLoss(power=0), "power"),
        (lambda: losses.UniformityLoss()(None, np.zeros([3])), "embeddings"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
