"""Time and memory of the other losses, side by side with the PyTorch libraries.

    python losses.py [--out FILE] [--only REGEX] [--sizes B ...] [--peer-python PATH]

A cell is one loss on a batch of B rows of embeddings of 256 dimensions: its value and its
gradient with respect to the embeddings, and to the weights that go with the loss: class
centres, or a classifier of pairs. The peers are sentence-transformers,
pytorch-metric-learning (the losses on class centres), and open_clip's formulas (CLIPLoss,
SigLIPLoss), on torch. Ours takes columns as one tensor [B, n, D], the peer as separate
ones, as either library's models give them.

The rows of B = 8 are the fixed cost of a call. See README.md for the rest.
"""

import functools

import harness
import numpy as np
import peers
from harness import DIM, Layout, Loss

DIMS = [256, 128, 64, 32, 16]
DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc")
SCALE = 1 / 0.07  # with which CLIP begins
CLASSES = ["10,000 classes", "100,000 classes"]
BY_ROW = [8, 128, 512, 4096, 16384]  # what takes the time of B
BY_PAIR = [8, 512, 1024, 2048, 4096]  # of B * B


def headed(head, weights, shape, loss):
    """The loss of what the head makes of embeddings of this shape with these weights."""
    head.build(shape)
    head.set_weights(weights)
    return lambda y, x: loss(y, head(x))


def on_classes(name):
    """Ours of a loss on a row's cosines with all centres."""

    def make(t, centers):
        head, loss = t.layers.CosineHead(len(centers)), getattr(t.losses, name)()
        return headed(head, [centers], [None, DIM], loss)

    return make


def on_pairs(t, kernel, bias):
    """Ours of SoftmaxLoss."""
    head, loss = t.layers.PairHead(len(bias)), t.losses.SoftmaxLoss()
    return headed(head, [kernel, bias], [None, 2, DIM], loss)


LOSSES = {
    "CosineSimilarityLoss": Loss(
        lambda t: t.losses.CosineSimilarityLoss(),
        peers.sentence_transformers("CosineSimilarityLoss"),
        ["scored pairs"],
    ),
    "CoSENTLoss": Loss(
        lambda t: t.losses.CoSENTLoss(),
        peers.sentence_transformers("CoSENTLoss"),
        ["scored pairs"],
    ),
    "AnglELoss": Loss(
        lambda t: t.losses.AnglELoss(),
        peers.sentence_transformers("AnglELoss"),
        ["scored pairs"],
    ),
    "ContrastiveLoss": Loss(
        lambda t: t.losses.ContrastiveLoss(),
        peers.sentence_transformers("ContrastiveLoss"),
        ["pairs, 2 labels"],
    ),
    "OnlineContrastiveLoss": Loss(
        lambda t: t.losses.OnlineContrastiveLoss(),
        peers.sentence_transformers("OnlineContrastiveLoss"),
        ["pairs, 2 labels"],
    ),
    "SoftmaxLoss": Loss(on_pairs, peers.pair_softmax(), ["pairs, 3 labels"]),
    "MSELoss": Loss(lambda t: t.losses.MSELoss(), peers.teacher_mse(), ["teacher"]),
    "MarginMSELoss": Loss(
        lambda t: t.losses.MarginMSELoss(),
        peers.sentence_transformers("MarginMSELoss"),
        ["triplets, margins"],
    ),
    "DistillKLDivLoss": Loss(
        lambda t: t.losses.DistillKLDivLoss(),
        peers.sentence_transformers("DistillKLDivLoss"),
        ["5 columns, scores"],
    ),
    "MultipleNegativesRankingLoss": Loss(
        lambda t: t.losses.MultipleNegativesRankingLoss(),
        peers.sentence_transformers("MultipleNegativesRankingLoss"),
        ["pairs"],
    ),
    "MultipleNegativesRankingLoss, 4 directions": Loss(
        lambda t: t.losses.MultipleNegativesRankingLoss(directions=DIRECTIONS),
        peers.sentence_transformers("MultipleNegativesRankingLoss", directions=DIRECTIONS),
        ["pairs"],
    ),
    "MultipleNegativesRankingLoss, hardness": Loss(
        lambda t: t.losses.MultipleNegativesRankingLoss(
            hardness="all", hardness_strength=5.0
        ),
        peers.sentence_transformers(
            "MultipleNegativesRankingLoss",
            hardness_mode="all_negatives",
            hardness_strength=5.0,
        ),
        ["pairs"],
    ),
    "MatryoshkaLoss, 5 dims": Loss(
        lambda t: t.losses.MatryoshkaLoss(t.losses.MultipleNegativesRankingLoss(), DIMS),
        peers.matryoshka_ranking(DIMS),
        ["pairs"],
    ),
    "CLIPLoss": Loss(
        lambda t: t.losses.CLIPLoss(scale=SCALE), peers.clip(SCALE), ["pairs"]
    ),
    "SigLIPLoss": Loss(
        lambda t: t.losses.SigLIPLoss(scale=10.0, bias=-10.0),
        peers.sig_lip(scale=10.0, bias=-10.0),
        ["pairs"],
    ),
    "GISTEmbedLoss": Loss(
        lambda t: t.losses.GISTEmbedLoss(), peers.gist_embed(), ["pairs, guide"]
    ),
    **{
        name: Loss(on_classes(name), peers.class_centers(name), CLASSES)
        for name in [
            "ArcFaceLoss",
            "CosFaceLoss",
            "NormalizedSoftmaxLoss",
            "ProxyAnchorLoss",
            "ProxyNCALoss",
        ]
    },
}


def embeddings(rng, num_rows, num_columns):
    """Columns `[B, n, D]` of length 0.5 to 1.5, whose cosines in a row are 0 to 0.8."""
    common = rng.normal(size=[num_rows, 1, DIM])
    noise = rng.uniform(0.5, 8, [num_rows, num_columns, 1])
    columns = common + noise * rng.normal(size=[num_rows, num_columns, DIM])
    columns /= np.linalg.norm(columns, axis=-1, keepdims=True)
    columns *= rng.uniform(0.5, 1.5, [num_rows, num_columns, 1])
    return columns.astype("float32")


def scored(num_columns, scores):
    """Columns with scores of `(rng, B)`."""

    def batch(num_rows):
        rng = np.random.default_rng(0)
        return scores(rng, num_rows), embeddings(rng, num_rows, num_columns)

    return batch


def three_labels(num_rows):
    """Pairs with labels, and a classifier's kernel and bias."""
    rng = np.random.default_rng(0)
    kernel, bias = 0.05 * rng.normal(size=[3 * DIM, 3]), 0.1 * rng.normal(size=[3])
    weights = kernel.astype("float32"), bias.astype("float32")
    return rng.integers(0, 3, num_rows), embeddings(rng, num_rows, 2), *weights


def teacher(num_rows):
    """Embeddings `[B, D]` and the teacher's."""
    rng = np.random.default_rng(0)
    student, target = np.moveaxis(embeddings(rng, num_rows, 2), 1, 0)
    return target.copy(), student.copy()


def guided(num_rows):
    """Pairs, and a guide that sees them somewhat otherwise."""
    rng = np.random.default_rng(0)
    columns = embeddings(rng, num_rows, 2)
    guides = columns + 0.05 * rng.normal(size=columns.shape)
    return guides.astype("float32"), columns


def classes(num_classes, num_rows):
    """Embeddings more or less like the centres of their classes, and all the centres."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal([num_classes, DIM], dtype="float32")
    labels = rng.integers(0, num_classes, num_rows)
    noise = rng.uniform(0.5, 2, [num_rows, 1]) * rng.normal(size=[num_rows, DIM])
    return labels, (centers[labels] + noise).astype("float32"), centers


LAYOUTS = {
    "scored pairs": Layout(  # 0 to 5 in steps of 0.2, as people give them, in 0 to 1
        BY_ROW, scored(2, lambda rng, b: (rng.integers(0, 26, b) / 25).astype("float32"))
    ),
    "pairs, 2 labels": Layout(BY_ROW, scored(2, lambda rng, b: rng.integers(0, 2, b))),
    "pairs, 3 labels": Layout(BY_ROW, three_labels),
    "teacher": Layout(BY_ROW, teacher),
    "triplets, margins": Layout(
        BY_ROW, scored(3, lambda rng, b: rng.normal(size=b).astype("float32"))
    ),
    "5 columns, scores": Layout(
        BY_ROW, scored(5, lambda rng, b: rng.normal(size=[b, 4]).astype("float32"))
    ),
    "pairs": Layout(BY_PAIR, scored(2, lambda rng, b: np.zeros([b, 0], "float32"))),
    "pairs, guide": Layout(BY_PAIR, guided),
    CLASSES[0]: Layout([1024], functools.partial(classes, 10_000)),
    CLASSES[1]: Layout([1024], functools.partial(classes, 100_000)),
}

if __name__ == "__main__":
    harness.main(__doc__, LOSSES, LAYOUTS)
