"""Losses on the pairs of documents in each list, on scores `[B, L]`.

There are B L^2 pairs. They are computed in tiles of lists and never stored: memory is that
of the scores and of one tile.
"""

import math

import keras
import tensorflow as tf

from tfembloss import tiling
from tfembloss.checks import integer, non_negative, one_of, positive
from tfembloss.losses.listwise import ListLoss, descending, in_order

_SCHEMES = ("ndcg_loss1", "ndcg_loss2", "lambda_rank", "ndcg_loss2++", None)


def _by_tiles(kernel, scores, shared, *of_lists, **options):
    """Returns terms and counts `[B]` of a kernel that makes several matrices `[B, L, L]`.

    Args:
        kernel: `(scores, *of_lists, shared, **options) -> terms, counts`.
        scores: `[B, L]`.
        shared: tensor that all lists have in common.
        of_lists: tensors `[B, L]`.
        options: plain values.
    """

    def of_tile(scores, shared, *of_lists):
        terms, counts = kernel(scores, *of_lists, shared, **options)
        return tf.stack([terms, counts], axis=1)  # [B, 2]

    length = scores.shape[1] or tf.maximum(tf.shape(scores)[1], 1)
    largest = tf.maximum if tf.is_tensor(length) else max
    tile_size = largest(1, tiling.ENTRIES // largest(length, 1) ** 2)
    found = tiling.by_tiles(of_tile, scores, shared, of_lists, tile_size)
    return tf.unstack(found, 2, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class LambdaLoss(ListLoss):
    r"""Logistic loss of each pair in the wrong order, by what the order costs in NDCG.

    With documents i and j at the places $r_i$ and $r_j$ that the scores give them, gains
    $G_i = (2^{y_i} - 1) / \mathrm{maxDCG@}k$ of labels y, and discounts
    $D_r = \log_2(1 + r)$, over the P pairs of all lists of all replicas:

    $$L = \frac{1}{P} \sum_{y_i > y_j} W_{ij} \log_2(1 + e^{-\sigma (s_i - s_j)})$$

    | `weighting_scheme` | $W_{ij}$ |
    |---|---|
    | `"ndcg_loss1"` | $G_i / D_{r_i}$, of all pairs, whatever their labels |
    | `"ndcg_loss2"` | $\delta_{ij} \|G_i - G_j\|$ with \
$\delta_{ij} = 1 / D_d - 1 / D_{d+1}$, $d = \|r_i - r_j\|$ |
    | `"lambda_rank"` | $\rho_{ij} \|G_i - G_j\|$ with \
$\rho_{ij} = \|1 / D_{r_i} - 1 / D_{r_j}\|$ |
    | `"ndcg_loss2++"` | $(\mu\, \delta_{ij} + \rho_{ij}) \|G_i - G_j\|$ |
    | `None` | 1 |

    Weights are constants for the gradient. Scores are ranked in the precision of the loss,
    also if they are given in half precision; of equal scores, the document that comes
    first in the list is ranked first. Labels below 0 have gain 0.

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels `[B, L]`, such as grades 0 to
    4, NaN where there is no document.

    Args:
        weighting_scheme: one of the table's.
        k: only pairs of which a document is among the k best by the scores count, > 0; None
            for all.
        sigma: $\sigma$, factor on the differences of scores, > 0.
        mu: $\mu$ of `"ndcg_loss2++"`, >= 0.
        reduction_log: `"binary"` as above, or `"natural"`: the logarithm of the loss.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[1.0, 0.0]]), tf.constant([[2.0, 2.0]])
    >>> round(float(LambdaLoss("lambda_rank")(labels, scores)), 4)   # 1 - 1 / log2(3)
    0.3691

    Reference:
        Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization", 2018,
        https://doi.org/10.1145/3269206.3271784

    Relations:
        Equal to sentence-transformers' class of the same name with its weighting schemes of
        these names, which stores several matrices of all pairs.
    """

    def __init__(
        self,
        weighting_scheme="ndcg_loss2++",
        k=None,
        sigma=1.0,
        mu=10.0,
        reduction_log="binary",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.weighting_scheme = one_of("weighting_scheme", weighting_scheme, _SCHEMES)
        self.k = k if k is None else integer("k", k, 1, hint=", or None for all")
        self.sigma = positive("sigma", sigma)
        self.mu = non_negative("mu", mu)
        self.reduction_log = one_of("reduction_log", reduction_log, ("binary", "natural"))

    def terms(self, scores, labels, valid):
        """Returns the weighted sum over each list's pairs `[B]`, and their number."""
        length = tf.shape(scores)[1]
        if self.weighting_scheme or self.k:  # which depend on places
            order = descending(tf.stop_gradient(scores), valid)
            scores, labels, valid = (in_order(x, order) for x in (scores, labels, valid))
        weights = self._weights_of_places(length, scores.dtype)  # [L, L]
        gains = self._gains(labels, valid)  # [B, L]
        return _by_tiles(
            self._kernel, scores, weights, labels, valid, gains, **self.options
        )

    def _weights_of_places(self, length, dtype):
        """Returns the weight of each pair of places `[L, L]`; -1 for those beyond k."""
        places = tf.range(length)
        inverse = _inverse_discounts(length + 1, dtype)
        distance = tf.abs(places[:, None] - places[None, :])
        delta = tf.gather(inverse, tf.maximum(distance - 1, 0)) - tf.gather(
            inverse, distance
        )
        rho = tf.abs(inverse[:length, None] - inverse[None, :length])
        weights = {
            "ndcg_loss1": tf.repeat(inverse[:length, None], length, axis=1),
            "ndcg_loss2": delta,
            "lambda_rank": rho,
            "ndcg_loss2++": self.mu * delta + rho,
            None: tf.ones([length, length], dtype),
        }[self.weighting_scheme]
        if self.k is None:
            return weights
        counted = (places < self.k)[:, None] | (places < self.k)[None, :]
        return tf.where(counted, weights, tf.constant(-1, dtype))

    def _gains(self, labels, valid):
        """Returns the gains `[B, L]` of labels in the order of the scores."""
        # Divided by 2^top, which large labels overflow: only the gains' ratios are used.
        labels = tf.where(valid, tf.nn.relu(labels), 0)
        top = tf.nn.relu(tf.reduce_max(labels, axis=1, keepdims=True))  # 0 for L = 0
        gains = tf.where(valid, 2 ** (labels - top) - 2**-top, 0)  # [B, L]
        if self.weighting_scheme is None:
            return gains  # not used
        best = tf.sort(gains, direction="DESCENDING")[:, : self.k]
        discounted = best * _inverse_discounts(tf.shape(best)[1], gains.dtype)
        ideal = tf.reduce_sum(discounted, axis=1, keepdims=True)
        return tf.math.divide_no_nan(gains, ideal)

    @staticmethod
    def formula(
        scores, labels, valid, gains, weights, *, weighting_scheme, sigma, reduction_log
    ):
        """Returns each list's sum over pairs i, j, the second and third axis, and P."""
        both = valid[:, :, None] & valid[:, None, :] & (weights >= 0)  # [B, L, L]
        if weighting_scheme == "ndcg_loss1":
            weights *= gains[:, :, None]
        else:
            both &= labels[:, :, None] > labels[:, None, :]
            if weighting_scheme is not None:
                weights *= tf.abs(gains[:, :, None] - gains[:, None, :])
        differences = sigma * (scores[:, :, None] - scores[:, None, :])
        losses = tf.where(both, weights * tf.nn.softplus(-differences), 0)
        unit = math.log(2) if reduction_log == "binary" else 1
        terms = tf.reduce_sum(losses, axis=[1, 2]) / unit
        return terms, tf.reduce_sum(tf.cast(both, scores.dtype), axis=[1, 2])


def _inverse_discounts(number, dtype):
    """Returns 1 / log2(1 + r) of the places r from 1 to a number."""
    places = tf.cast(tf.range(1, number + 1), dtype)
    return math.log(2) / tf.math.log1p(places)


@keras.saving.register_keras_serializable("tfembloss")
class RankNetLoss(LambdaLoss):
    r"""Logistic loss of all pairs of a list's documents with different labels.

    $$L = \frac{1}{P} \sum_{y_i > y_j} \log_2(1 + e^{-\sigma (s_i - s_j)})$$

    over the P pairs of all lists of all replicas.

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels `[B, L]`, NaN where there is
    no document.

    Args:
        k, sigma, reduction_log: see `LambdaLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[1.0, 0.0]]), tf.constant([[2.0, 2.0]])
    >>> float(RankNetLoss()(labels, scores))
    1.0

    Reference:
        Burges et al., "Learning to Rank using Gradient Descent", 2005,
        https://doi.org/10.1145/1102351.1102363

    Relations:
        Equal to sentence-transformers' class of the same name, and to `LambdaLoss` with
        `weighting_scheme=None`. With `reduction_log="natural"` the pairs and their losses
        are those of keras-rs's `PairwiseLogisticLoss`, which adds them up for each document
        and takes the mean over documents.
    """

    def __init__(
        self,
        k=None,
        sigma=1.0,
        reduction_log="binary",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(
            None, k, sigma, 0.0, reduction_log, reduction=reduction, name=name, dtype=dtype
        )


@keras.saving.register_keras_serializable("tfembloss")
class ADRMSELoss(ListLoss):
    r"""Squared error of approximate places, with less weight on places further down.

    With the place $r_j = 1 + \sum_{l \ne j} \sigma(\alpha (s_l - s_j))$ that the scores
    give a document, and the place $t_j$ that its label gives it, where equal labels share
    the mean of their places, over the n documents of all lists of all replicas:

    $$L = \frac{1}{n} \sum_{i,j} \frac{(t_{ij} - r_{ij})^2}{\log_2(1 + t_{ij})}$$

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels `[B, L]`, NaN where there is
    no document.

    Args:
        alpha: $\alpha$, factor on the differences of scores, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[1.0, 1.0]]), tf.constant([[2.0, 2.0]])
    >>> float(ADRMSELoss()(labels, scores))
    0.0

    Reference:
        Reddy et al., "FIRST: Faster Improved Listwise Reranking with Single Token
        Decoding", 2024, https://arxiv.org/abs/2406.15657

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    def __init__(self, alpha=1.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.alpha = positive("alpha", alpha)

    def terms(self, scores, labels, valid):
        """Returns the sum of each list's documents `[B]`, and their number."""
        nothing = tf.zeros([1], scores.dtype)
        return _by_tiles(self._kernel, scores, nothing, labels, valid, **self.options)

    @staticmethod
    def formula(scores, labels, valid, _, *, alpha):
        """Returns each list's sum over documents j, the third axis, and their number."""
        dtype = scores.dtype
        of_others = valid[:, :, None] & ~tf.eye(tf.shape(scores)[1], dtype=tf.bool)
        before = tf.sigmoid(alpha * (scores[:, :, None] - scores[:, None, :]))
        places = 1 + tf.reduce_sum(tf.where(of_others, before, 0), axis=1)  # [B, L]
        higher = labels[:, :, None] > labels[:, None, :]
        equal = labels[:, :, None] == labels[:, None, :]
        shares = tf.cast(higher, dtype) + tf.cast(equal, dtype) / 2
        right = 1 + tf.reduce_sum(tf.where(of_others, shares, 0), axis=1)  # [B, L]
        errors = tf.square(right - places) * math.log(2) / tf.math.log1p(right)
        errors = tf.where(valid, errors, 0)
        return tf.reduce_sum(errors, axis=1), tf.reduce_sum(tf.cast(valid, dtype), axis=1)
