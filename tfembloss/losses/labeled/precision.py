"""Losses on labeled rows by the ranks of an anchor's positives: AP, recall and others.

A rank counts the rows that are nearer to the anchor than a positive; each of them counts by
a sigmoid of how much nearer it is, so that ranks have a gradient. All positives with all
rows are `[B, P, N]`; they are taken one positive of each anchor at a time, in memory of a
few matrices `[B, N]`.
"""

import keras
import tensorflow as tf

from tfembloss import masks
from tfembloss.checks import integer, one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.labeled.base import LabelLoss, PairLoss
from tfembloss.miners.base import Positive, over_positives


def _sum_over_positives(formula):
    """Returns a kernel: the mean of a formula over each anchor's positives, and validity.

    The formula takes how many positives and negatives are nearer than one positive of each
    anchor `[B]`, the number of positives `[B]`, and options.
    """

    def start(x, labels, with_anchor):
        same = labels.positive  # [B, N]
        valid, own = masks.row_any(same), []
        if with_anchor and isinstance(labels, masks.LabelPairs):  # it is one of the keys
            own = [Positive(labels.positions, valid, -1)]
            same |= own[0].mask(tf.shape(x)[1])
        number = tf.reduce_sum(tf.cast(same, x.dtype), axis=1)  # [B]
        return same, valid, tf.maximum(number, 1), own

    def nearer(x, one, temperature):
        return tf.sigmoid((one.of(x)[:, None] - x) / temperature)  # [B, N]

    def counted(x, labels, same, one, above):
        above_it = same & ~one.mask(tf.shape(x)[1])
        return masks.row_sum(above, above_it), masks.row_sum(above, labels.negative)

    def forward(x, labels, temperature, with_anchor, **options):
        same, valid, number, own = start(x, labels, with_anchor)

        def step(one, state):
            above = nearer(x, one, temperature)
            counts = counted(x, labels, same, one, above)
            return (state[0] + tf.where(one.found, formula(*counts, number, **options), 0),)

        state = (tf.zeros_like(number),)
        for one in own:
            state = step(one, state)
        (sums,) = over_positives(labels, step, state)
        return sums / number, tf.cast(valid, x.dtype)

    def backward(upstreams, result, x, labels, temperature, with_anchor, **options):
        upstream, _ = upstreams  # of the means, and of whether a row is valid
        same, _, number, own = start(x, labels, with_anchor)
        upstream /= number

        def step(one, state):
            above = nearer(x, one, temperature)
            here = one.mask(tf.shape(x)[1])
            counts = counted(x, labels, same, one, above)
            with tf.GradientTape() as tape:
                tape.watch(counts)
                value = formula(*counts, number, **options)
            weights = tf.where(one.found, upstream, 0)
            of_counts = tape.gradient(value, counts, weights, unconnected_gradients="zero")
            slope = tf.where(same & ~here, of_counts[0][:, None], 0)
            slope = tf.where(labels.negative, of_counts[1][:, None], slope)
            slope *= above * (1 - above) / temperature
            at_positive = tf.reduce_sum(slope, axis=1, keepdims=True)
            return (state[0] - slope + tf.where(here, at_positive, 0),)

        state = (tf.zeros_like(x),)
        for one in own:
            state = step(one, state)
        return over_positives(labels, step, state)[0]

    return differentiable(forward, backward)


class _RankLoss(LabelLoss):
    """Base of the losses whose formula is of the ranks of an anchor's positives."""

    with_anchor = True  # whether the anchor is one of its own positives

    _kernel_of = staticmethod(_sum_over_positives)

    def sums_and_counts(self, batch):
        """Returns each anchor's mean over its positives, and whether it has one."""
        x = self.candidates(batch).distances  # [B, N]
        options = {"temperature": self.temperature, "with_anchor": self.with_anchor}
        values, valid = self._kernel(x, batch.pairs, **options, **self.options)
        return values, tf.stop_gradient(valid)


@keras.saving.register_keras_serializable("tfembloss")
class SmoothAPLoss(_RankLoss):
    r"""One minus the average precision, with smooth ranks.

    With $\sigma$ the sigmoid, $P$ the positives of the anchor a and itself, $K$ all rows:

    $$L = \mathrm{mean}_a\, 1 - \frac{1}{|P|} \sum_{p \in P}
      \frac{1 + \sum_{k \in P,\, k \ne p} \sigma((d(a,p) - d(a,k)) / T)}
           {1 + \sum_{k \in K,\, k \ne p} \sigma((d(a,p) - d(a,k)) / T)}$$

    The mean is over the anchors with a positive. Time grows with the number of rows of the
    largest class, memory does not.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = SmoothAPLoss(temperature=0.1)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.3087

    Reference:
        Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval",
        2020, https://arxiv.org/abs/2007.12163

    Relations:
        Equal to pytorch-metric-learning's loss of the same name where that is right: with
        as many classes as rows of a class.
    """

    def __init__(
        self,
        temperature=0.01,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.temperature = positive("temperature", temperature)

    @staticmethod
    def formula(positives_above, negatives_above, num_positives):
        """Returns one minus the precision at a positive's rank `[B]`."""
        rank = 1 + positives_above + negatives_above
        return negatives_above / rank


PNP_VARIANTS = ["Ds", "Dq", "Iu", "Ib", "O"]


@keras.saving.register_keras_serializable("tfembloss")
class PNPLoss(_RankLoss):
    r"""A penalty of the negatives before each positive, by one of five formulas.

    With r the number of negatives that are nearer than a positive, each counted by
    $\sigma((d(a,p) - d(a,n)) / T)$:

    | variant | penalty |
    |---|---|
    | `"O"` | $r$ |
    | `"Ds"` | $\log(1 + r)$ |
    | `"Dq"` | $1 - (1 + r)^{-\alpha}$ |
    | `"Iu"` | $(1 + r) \log(1 + r)$ |
    | `"Ib"` | $(b r - \log(1 + b r)) / b^2$ |

    The loss is the mean over the positives of an anchor, itself among them, and over the
    anchors with a positive. The variants of `"D"` count the first negatives most, and give
    up positives that are far behind; those of `"I"` count the last ones most. Time grows
    with the number of rows of the largest class, memory does not.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        variant: one of these.
        b: of `"Ib"`, > 0.
        alpha: of `"Dq"`, > 0.
        temperature: T, > 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = PNPLoss("O", temperature=0.1)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.8443

    Reference:
        Li et al., "Rethinking the Optimization of Average Precision: Only Penalizing
        Negative Instances before Positive Ones is Enough", 2021,
        https://arxiv.org/abs/2102.04640

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, whose `anneal` is T.
    """

    def __init__(
        self,
        variant="Ds",
        b=2.0,
        alpha=1.0,
        temperature=0.01,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.variant = one_of("variant", variant, PNP_VARIANTS)
        self.b = positive("b", b)
        self.alpha = positive("alpha", alpha)
        self.temperature = positive("temperature", temperature)

    @staticmethod
    def formula(positives_above, negatives_above, num_positives, *, variant, b, alpha):
        """Returns the penalty of a positive's rank `[B]`."""
        r = negatives_above
        if variant == "O":
            return r
        if variant == "Ds":
            return tf.math.log1p(r)
        if variant == "Dq":
            return 1 - (1 + r) ** -alpha
        if variant == "Iu":
            return (1 + r) * tf.math.log1p(r)
        return (b * r - tf.math.log1p(b * r)) / b**2


@keras.saving.register_keras_serializable("tfembloss")
class RecallAtKSurrogateLoss(_RankLoss):
    r"""One minus the recall among the k nearest rows, smooth, for several k.

    With the smooth rank $r(p) = 1 + \sum_{j \ne p} \sigma((d(a,p) - d(a,j)) / T)$ of a
    positive among all other rows j:

    $$L = \mathrm{mean}_a\, 1 - \mathrm{mean}_k\,
          \frac{1}{\min(k, |P|)} \sum_{p \in P} \sigma\left(\frac{k - r(p)}{T_r}\right)$$

    The mean is over the anchors with a positive. Time grows with the number of rows of the
    largest class, memory does not.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        k: number of nearest rows, >= 1, or a list of them.
        temperature: T, of the distances, > 0.
        rank_temperature: $T_r$, of the ranks, > 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = RecallAtKSurrogateLoss(k=[1])
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.8059

    Reference:
        Patel et al., "Recall@k Surrogate Loss with Large Batches and Similarity Mixup",
        2022, https://arxiv.org/abs/2108.11179

    Relations:
        The paper's loss without its mixup; the peers of this package do not have it.
    """

    with_anchor = False

    def __init__(
        self,
        k=(1, 2, 4, 8, 16),
        temperature=0.01,
        rank_temperature=1.0,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        numbers = k if isinstance(k, list | tuple) else [k]
        self.k = [integer("k", number, 1) for number in numbers]
        if not self.k:
            raise ValueError(
                "`k` must have a number of nearest rows, as in [1, 2, 4, 8]. Received: "
                f"k={k!r}"
            )
        self.temperature = positive("temperature", temperature)
        self.rank_temperature = positive("rank_temperature", rank_temperature)

    @property
    def ranks(self):
        """The numbers of nearest rows, as a plain value of a kernel."""
        return tuple(self.k)

    @staticmethod
    def formula(
        positives_above, negatives_above, num_positives, *, ranks, rank_temperature
    ):
        """Returns one minus a positive's part of the recall, times their number `[B]`."""
        rank = 1 + positives_above + negatives_above
        parts = [
            tf.sigmoid((k - rank) / rank_temperature) / tf.minimum(num_positives, k)
            for k in ranks
        ]
        return 1 - num_positives * sum(parts) / len(ranks)


@keras.saving.register_keras_serializable("tfembloss")
class FastAPLoss(PairLoss):
    r"""One minus the average precision, from histograms of the distances.

    The squared distances, 0 to 4, have $Q$ bins; each counts for the two nodes that it lies
    between. With the positives $h^+_q$ and all rows $h_q$ at a node, and those up to it,
    $H^+_q$ and $H_q$:

    $$L = \mathrm{mean}_a\, 1 - \frac{1}{|P|} \sum_q \frac{h^+_q H^+_q}{H_q}$$

    The mean is over the anchors with a positive.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        num_bins: Q, >= 1.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(FastAPLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.5833

    Reference:
        Cakir et al., "Deep Metric Learning to Rank", 2019

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. `SmoothAPLoss` needs no
        bins.
    """

    def __init__(self, num_bins=10, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__("normalized_euclidean", None, reduction, name, dtype)
        self.num_bins = integer("num_bins", num_bins, 1)

    @staticmethod
    def formula(distances, positive, negative, *, num_bins):
        """Returns the value of each anchor with a positive, and 1."""
        places = distances * distances * (num_bins / 4)  # [B, N], 0 to Q
        number = tf.reduce_sum(positive, axis=1)  # [B]
        up_to = of_positives_up_to = precision = tf.zeros_like(number)
        for node in range(num_bins + 1):
            part = tf.nn.relu(1 - tf.abs(places - node))  # [B, N]
            of_positives = masks.row_sum(part, positive)
            of_positives_up_to += of_positives
            up_to += of_positives + masks.row_sum(part, negative)
            products = of_positives * of_positives_up_to
            precision += tf.math.divide_no_nan(products, up_to)
        valid = tf.cast(number > 0, number.dtype)
        return valid - tf.math.divide_no_nan(precision, number), valid
