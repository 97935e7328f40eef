"""Time and memory of in-batch negatives in large batches, beside sentence-transformers.

    python large_batch.py [--out FILE] [--only REGEX] [--sizes B ...] [--peer-python PATH]

A cell is MultipleNegativesRankingLoss on B pairs of embeddings of D dimensions: its value
and its gradient. It stands beside the peer's dense loss of the same name and again beside
CachedMultipleNegativesRankingLoss, of which only the loss is measured, on given embeddings,
with mini-batches of 32 as by default. At B = 65536 it stands alone.

"one product" is a plain product of the two matrices [B, D], without gradient. Ours makes
four of them, one again for the gradient: 4 divided by the last column is its share of the
floating-point rate of that product. See README.md for the rest.
"""

import functools

import harness
import numpy as np
import peers
from harness import Cell, Layout, Loss

SIZES = [1024, 4096, 8192, 16384]
PRODUCT = "one product"


def ranking(t):
    """Ours."""
    return t.losses.MultipleNegativesRankingLoss()


def product(_):
    """The product of the two columns, without its gradient."""
    import tensorflow as tf

    @tf.custom_gradient
    def function(x):
        a, b = tf.unstack(x, 2, axis=1)
        return tf.matmul(a, b, transpose_b=True)[:, 0], lambda _: tf.zeros_like(x)

    return lambda _, x: function(x)


LOSSES = {
    "MultipleNegativesRankingLoss": Loss(
        ranking,
        peers.sentence_transformers("MultipleNegativesRankingLoss"),
        ["D=256", "D=768"],
    ),
    "the same, beside Cached": Loss(ranking, peers.cached_ranking(), ["D=256", "D=768"]),
    "the same, alone": Loss(ranking, None, ["D=256, 65536 pairs"]),
    PRODUCT: Loss(product, None, ["D=256", "D=768"]),
}


def pairs(dim, num_rows):
    """Pairs of rows of length 1, whose cosines in a pair are about 0.7."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal([num_rows, 1, dim], dtype="float32")
    x = common + 0.65 * rng.standard_normal([num_rows, 2, dim], dtype="float32")
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return np.zeros([num_rows, 0], "float32"), x


LAYOUTS = {
    "D=256": Layout(SIZES, functools.partial(pairs, 256)),
    "D=768": Layout(SIZES, functools.partial(pairs, 768)),
    "D=256, 65536 pairs": Layout([65536], functools.partial(pairs, 256)),
}

if __name__ == "__main__":
    columns = {"ours / one product": lambda cell: Cell(PRODUCT, cell.layout, cell.rows)}
    harness.main(__doc__, LOSSES, LAYOUTS, columns)
