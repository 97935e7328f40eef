"""Losses of a batch against other rows than its own, by the peer's values and gradients.

pytorch-metric-learning's losses take a separate reference set, and its CrossBatchMemory
compares a batch with a queue that has a copy of the batch without gradient. Its
DynamicSoftMarginLoss mixes the histograms of batches.
"""

import functools

import goldens
import numpy as np
import pytest
import tensorflow as tf
from golden_table import PML
from goldens import plain_kernels  # noqa: F401

from tfembloss import layers, losses, miners
from tfembloss.losses.labeled.histograms import GapHistogram
from tfembloss.masks import MemoryRows

LOSSES = {
    "circle": losses.CircleLoss,
    "contrastive": losses.LabelContrastiveLoss,
    "genlifted": losses.GeneralizedLiftedStructureLoss,
    "intrapair": losses.IntraPairVarianceLoss,
    "margin": losses.MarginLoss,
    "multisim": losses.MultiSimilarityLoss,
    "nca": losses.NCALoss,
    "ntxent": losses.NTXentLoss,
    "snr": losses.SignalToNoiseRatioContrastiveLoss,
    "supcon": losses.SupConLoss,
    "triplet_m02": functools.partial(losses.TripletMarginLoss, margin=0.2),
    "tuplet": functools.partial(losses.TupletMarginLoss, margin=np.radians(5.73)),
}


def rows_of(embeddings, labels):
    present = tf.ones(len(labels), tf.bool)
    return MemoryRows(embeddings, tf.constant(labels, tf.int64), present)


@pytest.mark.parametrize("case", goldens.ROWS[1:])
@pytest.mark.parametrize("name", LOSSES)
def test_a_memory_without_the_batchs_rows_is_a_reference_set(name, case):
    golden = goldens.arrays(PML, f"ref_{name}", case)
    loss = LOSSES[name](dtype="float64")
    rows, references = map(tf.constant, (golden["embeddings"], golden["ref_emb"]))
    with tf.GradientTape() as tape:
        tape.watch((rows, references))
        memory = rows_of(references, golden["ref_labels"])
        batch = loss.batch(tf.constant(golden["labels"]), rows, memory)
        of_memory = tf.range(len(batch.keys)) >= len(rows)
        pairs = batch.pairs._replace(present=of_memory)
        value = tf.reduce_mean(loss.values(batch._replace(pairs=pairs)))
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-9)
    ours = tape.gradient(value, (rows, references))
    for gradient, expected in zip(ours, ("grad", "ref_grad"), strict=True):
        error = np.linalg.norm(gradient - golden[expected])
        assert error <= 1e-9 * np.linalg.norm(golden[expected])


SEQUENCES = {
    "contrastive": losses.LabelContrastiveLoss,
    "multisim_msminer": functools.partial(
        losses.MultiSimilarityLoss, miner=miners.MultiSimilarityMiner()
    ),
    "ntxent": losses.NTXentLoss,
}


@pytest.mark.parametrize("case", goldens.ROWS)
@pytest.mark.parametrize("name", SEQUENCES)
def test_a_shorter_memory_beside_the_batch_is_the_peers(name, case):
    """The gradient is also the peer's once the keys have none."""
    golden = goldens.arrays(PML, f"seq_xbm_{name}", case)
    loss = SEQUENCES[name](dtype="float64")
    size, step = golden["config"]["memory_size"], len(golden["embeddings"][0])
    embeddings = tf.reshape(golden["embeddings"], [-1, golden["embeddings"].shape[2]])
    labels = golden["labels"].reshape(-1)
    of_layer = layers.CrossBatchMemory(size)
    batches = zip(golden["loss"], golden["grad"], strict=True)
    for number, (value, gradient) in enumerate(batches):
        now = slice(number * step, (number + 1) * step)
        before = slice(max(0, now.stop - size), now.start)
        rows, ids = embeddings[now], tf.constant(labels[now])
        memory = rows_of(embeddings[before], labels[before])
        np.testing.assert_allclose(loss(ids, rows, memory=memory), value, rtol=1e-9)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            batch = loss.batch(ids, rows, memory)
            batch = batch._replace(keys=tf.stop_gradient(batch.keys))
            found = tf.reduce_mean(loss.values(batch))
        error = np.linalg.norm(tape.gradient(found, rows) - gradient)
        assert error <= 1e-9 * np.linalg.norm(gradient)
        of_layer.enqueue(rows, ids)
    held = of_layer.contents()
    np.testing.assert_allclose(held.embeddings, golden["memory"], rtol=1e-6)
    np.testing.assert_array_equal(held.ids, golden["label_memory"])


@pytest.mark.parametrize("case", goldens.ROWS)
def test_a_histogram_of_several_batches_is_the_peers(case):
    golden = goldens.arrays(PML, "seq_dynsoftmargin", case)
    loss, parts = losses.DynamicSoftMarginLoss(dtype="float64"), tf.zeros([10], "float64")
    for step, labels in enumerate(golden["labels"]):
        same = labels[:, None] == labels
        number = (same.sum(axis=1) - 1) @ (~same).sum(axis=1)  # of triplets
        # By which the peer multiplies the momentum of 0.01.
        memory = GapHistogram(parts, 0.01 * number / (0.99 + 0.01 * number))
        ids, rows = tf.constant(labels), tf.constant(golden["embeddings"][step])
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(ids, rows, memory=memory)
        np.testing.assert_allclose(value, golden["loss"][step], rtol=1e-9)
        expected = golden["grad"][step]
        error = np.linalg.norm(tape.gradient(value, rows) - expected)
        assert error <= 1e-9 * np.linalg.norm(expected)
        parts = memory.moved(loss.counts(ids, rows))
    np.testing.assert_allclose(parts, golden["hist"], rtol=1e-9, atol=1e-12)
