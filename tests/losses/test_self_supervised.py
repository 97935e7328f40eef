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


@pytest.mark.parametrize("loss", [losses.SmoothAPLoss(0.2), losses.FastAPLoss()])
def test_of_first_views_alone_the_average_precision_is_that_of_one_positive(loss):
    """An anchor that is not among the keys is not a positive of itself."""
    value = float(losses.SelfSupervisedLoss(loss, symmetric=False)(None, VIEWS))
    assert 0 < value < 1
    if isinstance(loss, losses.SmoothAPLoss):
        unit = VIEWS / np.linalg.norm(VIEWS, axis=2, keepdims=True)
        s = unit[:, 0] @ unit[:, 1].T
        above = 1 / (1 + np.exp((np.diag(s)[:, None] - s) / 0.2))
        far = above.sum(axis=1) - 0.5  # without the positive itself
        assert value == pytest.approx(np.mean(far / (1 + far)), rel=1e-5)


def test_of_first_views_alone_a_pair_of_others_has_a_view_of_each_kind():
    unit = VIEWS / np.linalg.norm(VIEWS, axis=2, keepdims=True)
    d = np.linalg.norm(unit[:, None, 0] - unit[None, :, 1], axis=2)
    d_of_others = np.where(np.eye(8), np.inf, d)
    expected = 0
    for a in range(8):
        others = np.delete(np.delete(d_of_others, a, axis=0), a, axis=1).min()
        expected += max(0, d[a, a] - d_of_others[a].min() + 1) / 8
        expected += max(0, d[a, a] - others + 0.5) / 8
    value = losses.SelfSupervisedLoss(losses.QuadrupletLoss(), symmetric=False)(None, VIEWS)
    assert float(value) == pytest.approx(expected, rel=1e-5)


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
        (
            lambda: losses.SelfSupervisedLoss(losses.MarginLoss(num_betas=1)),
            "num_betas=1. Use a fixed beta",
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
