"""Losses on lists of documents with scores `[B, L]`, such as those of a `CrossEncoder`."""

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import flag, integer, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import EmbeddingLoss, nan_where_not_finite
from tfembloss.losses.inputs import (
    are_missing,
    described,
    described_both,
    of_shape,
    require,
)


class ListLoss(EmbeddingLoss):
    """Base of the losses on lists: `y_pred` are scores `[B, L]`, `y_true` labels `[B, L]`.

    A row is one query's list of L documents. A label is any number, the larger the more
    relevant; NaN says that there is no document in this place, as at the end of a list
    that is shorter than others. Such places have no influence and no gradient. A
    `tf.RaggedTensor` of labels, or of both labels and scores, is padded in this way.
    Padding by -1, as other libraries have it, is `np.where(labels < 0, np.nan, labels)`.

    Each list has one value, and `sample_weight [B]` weights lists. What a loss is a mean
    over, lists, documents or pairs, is counted over the lists of all replicas, and the mean
    of the values is the loss. A loss without any such is 0.

    A subclass defines a static method

        formula(scores, labels, valid, *, k) -> terms [B], counts [B]

    of scores, labels and whether there is a document, `[B, L]` each: a sum for each list,
    and over how many it is taken. Its keyword arguments are the loss's attributes of the
    same names.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.
    """

    takes_scores = True

    @staticmethod
    def _kernel_of(formula):
        return differentiable(formula)

    def __call__(self, y_true, y_pred, sample_weight=None, memory=None):
        """Computes the reduced loss; see `EmbeddingLoss`."""
        if isinstance(y_pred, tf.RaggedTensor):
            y_pred = _dense_scores(y_true, y_pred)
        if isinstance(y_true, tf.RaggedTensor):
            dtype = y_true.dtype if y_true.dtype.is_floating else self.dtype
            y_true = tf.cast(y_true, dtype).to_tensor(float("nan"))
        return super().__call__(y_true, y_pred, sample_weight, memory)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of scores `y_pred [B, L]` with labels `y_true [B, L]`."""
        labels = tf.cast(check_lists(y_true, y_pred), self.dtype)  # [B, L]
        valid = ~tf.math.is_nan(labels)
        labels = tf.where(valid, labels, tf.zeros_like(labels))
        terms, counts = self.terms(y_pred, labels, valid)  # [B] each
        count = replicas.total(tf.reduce_sum(counts))
        num_lists = replicas.total(tf.cast(tf.size(terms), terms.dtype))
        # A mask would hide what is not finite.
        bad = nan_where_not_finite(y_pred)
        return tf.math.divide_no_nan(num_lists * terms, count) + bad

    def terms(self, scores, labels, valid):
        """Returns the formula's terms and counts `[B]`."""
        return self._kernel(scores, labels, valid, **self.options)


def _dense_scores(y_true, y_pred):
    """Returns ragged scores, padded. Raises ValueError if labels have other lengths."""
    message = (
        "Expected a label for each score: y_true as ragged as y_pred, with lists of the "
        "same lengths. Received: "
    )
    if not isinstance(y_true, tf.RaggedTensor):
        raise ValueError(f"{message}a {type(y_true).__name__} as y_true.")
    same = tf.reduce_all(y_true.row_lengths() == y_pred.row_lengths())
    return require(same, y_pred.to_tensor(0), f"{message}lists of other lengths.")


def check_lists(y_true, y_pred):
    """Returns labels of the shape of scores `[B, L]`. Raises ValueError otherwise."""
    message = (
        "Expected scores y_pred [B, L] of lists of L documents, and as y_true a label for "
        "each, numbers [B, L], NaN where there is no document. Received: "
        f"{described_both(y_true, y_pred)}. Give a CrossEncoder lists of documents, "
        "x=(queries, documents), and y as lists of labels."
    )
    if y_pred.shape.rank != 2:
        raise ValueError(message)
    if y_true.dtype.is_bool:
        y_true = tf.cast(y_true, y_pred.dtype)
    return of_shape(y_true, y_pred.shape, y_pred, message)


def lowest_where_not(valid, x):
    """Returns x, and the lowest finite number in other places."""
    return tf.where(valid, x, x.dtype.min)


@keras.saving.register_keras_serializable("tfembloss")
class ListNetLoss(ListLoss):
    r"""Cross-entropy between the softmax of the labels and that of the scores.

    $$L_i = -\sum_j \mathrm{softmax}(y_i)_j \log \mathrm{softmax}(s_i)_j$$

    The mean is over the lists that have a document.

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels or a teacher's scores
    `[B, L]`, NaN where there is no document.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[2.0, 0.0]]), tf.constant([[1.0, 1.0]])
    >>> round(float(ListNetLoss()(labels, scores)), 4)
    0.6931

    Reference:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007,
        https://doi.org/10.1145/1273496.1273513

    Relations:
        Equal to sentence-transformers' class of the same name. With a teacher's scores as y
        it is `DistillKLDivLoss` of the scores plus the teacher's entropy: the gradient is
        the same.
    """

    @staticmethod
    def formula(scores, labels, valid):
        """Returns the cross-entropy of each list, and whether it has a document."""
        p = tf.nn.softmax(lowest_where_not(valid, labels))  # [B, L]
        log_q = tf.nn.log_softmax(lowest_where_not(valid, scores))
        terms = -tf.reduce_sum(tf.where(valid, p * log_q, 0), axis=1)
        return terms, _any(valid, scores.dtype)


def _any(valid, dtype):
    return tf.cast(tf.reduce_any(valid, axis=1), dtype)


@keras.saving.register_keras_serializable("tfembloss")
class ListMLELoss(ListLoss):
    r"""Negative log-likelihood of the right order, if documents are drawn by their scores.

    The first document is drawn with the probabilities that the softmax of the scores
    gives, the second from the others, and so on. For n documents in the right order:

    $$L_i = -\sum_{k=1}^n \Big(s_{i,k} - \log \sum_{j=k}^n e^{s_{i,j}}\Big)$$

    The mean is over the lists that have a document. Time and memory are O(B L), but for
    the sorting.

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels `[B, L]`, NaN where there is
    no document.

    Args:
        respect_input_order: if true, documents are given in the right order, the most
            relevant first, and labels only say where there are documents. If false, they
            are sorted by their labels; of equal labels, the document that comes first in
            the list is put first.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[2.0, 0.0]]), tf.constant([[1.0, 3.0]])
    >>> round(float(ListMLELoss()(labels, scores)), 4)   # log(e^1 + e^3) - 1
    2.1269

    Reference:
        Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", 2008,
        https://doi.org/10.1145/1390156.1390306

    Relations:
        Equal to sentence-transformers' class of the same name, and with
        `respect_input_order=False` to keras-rs's `ListMLELoss`, whose labels below 0 are
        NaN here.
    """

    def __init__(
        self,
        respect_input_order=True,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.respect_input_order = flag("respect_input_order", respect_input_order)

    def terms(self, scores, labels, valid):
        """Returns the negative log-likelihood of each list `[B]`, and if it has any."""
        if not self.respect_input_order:
            order = descending(labels, valid)
            scores, valid = in_order(scores, order), in_order(valid, order)
        weights = self.weights_of_places(valid, scores.dtype)  # [B, L]
        return _weighted_surprise(scores, weights, valid), _any(valid, scores.dtype)

    @staticmethod
    def weights_of_places(valid, dtype):
        """Returns the weight of each document in the right order, `[B, L]`."""
        return tf.cast(valid, dtype)


def descending(x, valid):
    """Returns the order `[B, L]` of each list by x: the largest first, no document last.

    Equal ones keep their order: TensorFlow sorts so in descending order.
    """
    return tf.argsort(lowest_where_not(valid, x), direction="DESCENDING", stable=True)


def in_order(x, order):
    """Returns the entries of `[B, L]` in the order of each list."""
    return tf.gather(x, order, batch_dims=1)


def _weighted_surprise(scores, weights, valid):
    """Returns `sum_k w_k (log sum_{j >= k} exp(s_j) - s_k)` of each list `[B]`."""

    # By hand: TensorFlow's gradient of the cumulative sums takes two more of them.
    @tf.custom_gradient
    def evaluate(scores):
        low = lowest_where_not(valid, scores)
        log_rest = tf.math.cumulative_logsumexp(low, axis=1, reverse=True)  # [B, L]
        terms = tf.where(valid, weights * (log_rest - scores), 0)

        def gradient(upstream):
            counted = weights > 0
            log_weights = tf.math.log(tf.where(counted, weights, 1))
            log_shares = lowest_where_not(counted, log_weights - log_rest)
            # exp(s_j - log_rest_k) <= 1 for k <= j.
            shares = scores + tf.math.cumulative_logsumexp(log_shares, axis=1)
            of_scores = tf.where(valid, tf.exp(shares) - weights, 0)
            return upstream[:, None] * of_scores

        return tf.reduce_sum(terms, axis=1), gradient

    return evaluate(scores)


@keras.saving.register_keras_serializable("tfembloss")
class PositionAwareListMLELoss(ListMLELoss):
    r"""`ListMLELoss` with more weight on the first places, also called p-ListMLE.

    The k-th term of a list of n documents has the weight

    $$w_k = \frac{2^{n-k} - 1}{\sum_{l=1}^n (2^{n-l} - 1)}$$

    so that the last place, which follows from the others, has none, and a list of one
    document the value 0.

    Call arguments: `y_pred` scores `[B, L]`; `y_true` labels `[B, L]`, NaN where there is
    no document.

    Args:
        respect_input_order: see `ListMLELoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> labels, scores = tf.constant([[2.0, 0.0]]), tf.constant([[1.0, 3.0]])
    >>> round(float(PositionAwareListMLELoss()(labels, scores)), 4)   # w is 1 and 0
    2.1269

    Reference:
        Lan et al., "Position-Aware ListMLE: A Sequential Learning Process for Ranking",
        2014, https://auai.org/uai2014/proceedings/individuals/164.pdf

    Relations:
        Equal to sentence-transformers' PListMLELoss with its default weights;
        `PListMLELoss` is a name for this class.
    """

    @staticmethod
    def weights_of_places(valid, dtype):
        """Returns the weight of each document in the right order, `[B, L]`."""
        valid = tf.cast(valid, dtype)
        places = tf.cumsum(valid, axis=1)  # from 1
        number = tf.reduce_sum(valid, axis=1, keepdims=True)
        weights = valid * (2**-places - 2**-number)  # times 2^n, which may overflow
        return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))


PListMLELoss = PositionAwareListMLELoss


@differentiable
def _surprise_of_first(scores, scale, activation):
    logits = scale * keras.activations.get(activation)(scores)  # [B, L]
    return tf.reduce_logsumexp(logits, axis=1) - logits[:, 0]


@keras.saving.register_keras_serializable("tfembloss")
class CrossEncoderMultipleNegativesRankingLoss(EmbeddingLoss):
    r"""Cross-entropy of the positive among other documents, by a cross-encoder's scores.

    $$L_i = -\log \frac{e^{scale \cdot a(s_{i1})}}{\sum_j e^{scale \cdot a(s_{ij})}}$$

    with an activation a. A `CrossEncoder` that is compiled with it takes columns of texts,
    x=(queries, positives), or with hard negatives (queries, positives, negatives, ...), and
    no y: of each row it scores the query with its positive, its own hard negatives, and
    `num_negatives` documents of other rows of the batch, drawn without repetition.

    Call arguments: `y_pred` scores `[B, L]`, that of the positive first; no `y_true`.

    Args:
        num_negatives: how many documents of other rows a `CrossEncoder` draws for each
            query, >= 0; None for all.
        scale: factor on the activated scores, > 0.
        activation: name of a Keras activation, or a function of scores; None for the scores
            themselves.
        seed: integer, or None for a random one, from which the documents are drawn anew in
            each step. Batches, and so the draws, are the same on any number of replicas.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or `y_pred` are not scores `[B, L]`, or of
            the positive alone.

    Example:

    >>> import tensorflow as tf
    >>> loss = CrossEncoderMultipleNegativesRankingLoss(scale=1.0, activation=None)
    >>> round(float(loss(None, tf.constant([[1.0, 3.0]]))), 4)   # log(e^1 + e^3) - 1
    2.1269

    Reference:
        Henderson et al., "Efficient Natural Language Response Suggestion for Smart Reply",
        2017, https://arxiv.org/abs/1705.00652

    Relations:
        Equal to sentence-transformers' MultipleNegativesRankingLoss for cross-encoders, and
        with `mini_batch_size` of the model to its CachedMultipleNegativesRankingLoss.
    """

    takes_scores = True

    def __init__(
        self,
        num_negatives=4,
        scale=10.0,
        activation="sigmoid",
        seed=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.num_negatives = num_negatives
        if num_negatives is not None:
            hint = ", or None for all"
            self.num_negatives = integer("num_negatives", num_negatives, 0, hint=hint)
        self.scale = positive("scale", scale)
        self.activation = activation
        try:
            keras.activations.get(activation)
        except ValueError as error:
            raise ValueError(
                "`activation` must be the name of a Keras activation, a function or None. "
                f"Received: activation={activation!r}"
            ) from error
        self.seed = seed if seed is None else integer("seed", seed)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of scores `y_pred [B, L]`, that of the positive first."""
        if y_pred.shape.rank != 2 or not are_missing(y_true):
            raise ValueError(
                "Expected scores y_pred [B, L], that of the positive first, and no y_true. "
                f"Received: {described_both(y_true, y_pred)}. A CrossEncoder scores such "
                "lists for x=(queries, positives) without y; ListNetLoss takes labels."
            )
        if y_pred.shape[1] == 1 and y_pred.shape[0] not in (0, 1):  # as a last batch
            raise ValueError(
                "Expected scores y_pred [B, L] of at least two documents, a positive and "
                f"negatives. Received: {described(y_pred, 'y_pred')}, one score a row, "
                "whose loss is always 0. A CrossEncoder draws negatives of raw texts only: "
                "give it a preprocessor, or inputs of lists with negatives; and "
                "num_negatives above 0, or hard negatives as further columns."
            )
        values = _surprise_of_first(
            y_pred, scale=self.scale, activation=self.activation
        )  # [B]
        return values + nan_where_not_finite(y_pred)
