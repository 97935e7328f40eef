"""Heads that map embeddings to class scores."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances, replicas
from tfembloss.checks import flag, integer, number, one_of, positive
from tfembloss.config import Configurable
from tfembloss.layers.shards import ShardedVariable
from tfembloss.losses.classification.base import check_labels
from tfembloss.losses.inputs import as_tensor


@keras.saving.register_keras_serializable("tfembloss")
class CosineHead(Configurable, keras.layers.Layer):
    r"""Cosine similarities of embeddings to a learned center of each class.

    $$y_{ic} = \max_k \cos(x_i, w_{ck})$$

    over the sub-centers k of class c; with a temperature T the mean of their cosines,
    weighted by their softmax:

    $$y_{ic} = \sum_k \frac{e^{\cos(x_i, w_{ck}) / T}}{\sum_l e^{\cos(x_i, w_{cl}) / T}}
               \cos(x_i, w_{ck})$$

    `tfembloss.EmbeddingClassifier` trains it with an encoder, by a loss on class scores.
    Each replica holds all the centers, or with `shard=True` a part of them.

    Call arguments: embeddings `[B, D]`, and optionally `classes [S]`, integers, and
    `lengths`. Returns cosines `[B, C]`, or `[B, S]` of the given classes, in the precision
    of the centers, whatever the dtype policy. With `lengths`, which some losses need,
    cosines and lengths `[B, 2, C]`: with `"embedding"` the lengths $|x_i|$, with
    `"product"` $|x_i| |w_{ck}|$.

    Args:
        num_classes: C, >= 1.
        sub_centers: centers of each class, >= 1; several centers suit classes with more
            than one cluster, or with noisy labels.
        regularizer: of the centers, such as `RegularFaceRegularizer()`; None for none.
        temperature: T, > 0, for `SoftTripleLoss`; None for the nearest sub-center.
        shard: whether each of the R replicas of a strategy holds the centers of C / R
            classes, the last one fewer, and the optimizer's state of these: for very many
            classes. Losses and weights are the same. `ArcFaceLoss` and the other losses by
            a softmax of cosines alone compare the rows of all replicas with a replica's
            classes, `[N, C / R]`; other losses, and metrics, gather all centers in a step.
            Files, `centers.numpy()` and `get_weights` have all centers, for any number of
            replicas; all workers must save. It is trained by `EmbeddingClassifier`, with an
            optimizer that changes each number by itself, such as SGD or Adam.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if an argument or the input shape is invalid.

    Example:

    >>> import numpy as np
    >>> head = CosineHead(num_classes=3)
    >>> head(np.array([[1.0, 2.0]])).shape
    TensorShape([1, 3])
    >>> tuple(head.centers.shape)
    (3, 2)

    Reference:
        Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy
        Web Faces", 2020, https://doi.org/10.1007/978-3-030-58621-8_43

    Relations:
        These are the weights of pytorch-metric-learning's ArcFaceLoss (W, transposed) and
        of its proxy losses. With K sub-centers, rows c K to c K + K - 1 of `centers` are
        those of class c.
    """

    def __init__(
        self,
        num_classes,
        sub_centers=1,
        regularizer=None,
        temperature=None,
        shard=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = integer("num_classes", num_classes, 1)
        self.sub_centers = integer("sub_centers", sub_centers, 1)
        self.temperature = temperature
        if temperature is not None:
            self.temperature = positive("temperature", temperature)
        self.regularizer = keras.regularizers.get(regularizer)
        self.shard = flag("shard", shard)
        if self.shard and self.regularizer is not None:
            raise ValueError(
                "A regularizer of the centers takes all of them: expected none with "
                f"shard=True. Received: regularizer={self.regularizer!r}"
            )
        expected = getattr(self.regularizer, "sub_centers", self.sub_centers)
        if expected != self.sub_centers:
            raise ValueError(
                "Expected a regularizer of as many sub-centers as the head has. Received: "
                f"sub_centers={self.sub_centers}, and {expected} in the regularizer."
            )

    def build(self, shape):
        """Builds the centers."""
        if len(shape) != 2:
            raise ValueError(
                "CosineHead takes embeddings [B, D] of one column of inputs. Received: "
                f"shape={tuple(shape)}"
            )
        # Only directions matter, so any scale works; learning rates are tuned for 1.
        initializer = keras.initializers.RandomNormal(stddev=1.0)
        if self.shard:
            self._build_shards(shape[1], initializer)
            return
        self.centers = self.add_weight(
            shape=(self.num_classes * self.sub_centers, shape[1]),
            initializer=initializer,
            regularizer=self.regularizer,
            name="centers",
            autocast=False,
        )

    def _build_shards(self, dim, initializer):
        with keras.name_scope(self.name, caller=self), tf.init_scope():
            self.centers = ShardedVariable(
                self.num_classes * self.sub_centers,
                (dim,),
                multiple=self.sub_centers,
                dtype=self.variable_dtype,
                name="centers",
            )
            with tf.device("CPU"):  # as they would be on one replica
                shape = self.centers.shape_of_all
                self.centers.assign(initializer(shape, self.variable_dtype))

    def set_weights(self, weights):
        """`keras.layers.Layer.set_weights`, of all centers."""
        if not self.shard:
            super().set_weights(weights)
            return
        (centers,) = weights
        self.centers.assign(centers)

    def of_shard(self, rows):
        """Returns cosines `[N, c]` to this replica's classes, and the first of these.

        Args:
            rows: embeddings `[N, D]`, those of all replicas.
        """
        x = distances.directions(tf.cast(rows, self.variable_dtype))
        w = distances.directions(tf.convert_to_tensor(self.centers.value))
        cosines, _ = self._by_class(tf.matmul(x, w, transpose_b=True), None)
        return cosines, self.centers.shape[0] // self.sub_centers * replicas.index()

    def _all_centers(self):
        """Returns the centers of all classes `[C * K, D]`."""
        if self.shard:
            return self.centers.all_rows()
        return tf.convert_to_tensor(self.centers.value)

    def call(self, embeddings, classes=None, lengths=None):
        """Returns cosines `[B, C]`, or `[B, S]` of the given `classes [S]`.

        With `lengths`, `"embedding"` or `"product"`, cosines and lengths `[B, 2, C]`.
        """
        if lengths is not None:
            one_of("lengths", lengths, ("embedding", "product"))
        embeddings = tf.cast(embeddings, self.variable_dtype)
        centers = self._all_centers()  # [C * K, D]
        if classes is not None:
            rows = classes[:, None] * self.sub_centers + tf.range(
                self.sub_centers, dtype=classes.dtype
            )
            centers = tf.gather(centers, tf.reshape(rows, [-1]))  # [S * K, D]
        x, w = distances.directions(embeddings), distances.directions(centers)
        cosines = tf.matmul(x, w, transpose_b=True)  # [B, C * K]
        of_each = None
        if lengths == "product":
            of_each = distances.sum_last(centers * w)  # [C * K]
        cosines, of_each = self._by_class(cosines, of_each)  # [B, C]
        if lengths is None:
            return cosines
        of_rows = distances.sum_last(embeddings * x)[:, None]  # [B, 1]
        of_each = tf.ones_like(cosines) if of_each is None else of_each
        return tf.stack([cosines, of_rows * of_each], axis=1)

    def _by_class(self, cosines, lengths):
        """Returns the cosines and the lengths of classes, of their sub-centers'.

        Args:
            cosines: `[B, C * K]`.
            lengths: of the centers `[C * K]`, or None.
        """
        if self.sub_centers == 1:
            return cosines, lengths
        num_classes = (cosines.shape[1] or tf.shape(cosines)[1]) // self.sub_centers
        cosines = tf.reshape(cosines, [-1, num_classes, self.sub_centers])
        if lengths is not None:
            lengths = tf.reshape(lengths, [num_classes, self.sub_centers])
        if self.temperature is not None:
            weights = tf.nn.softmax(cosines / self.temperature)  # [B, C, K]
        elif lengths is not None:
            nearest = tf.argmax(cosines, axis=2)
            weights = tf.one_hot(nearest, self.sub_centers, dtype=cosines.dtype)
        else:
            return tf.reduce_max(cosines, axis=2), None
        if lengths is not None:
            lengths = tf.reduce_sum(weights * lengths, axis=2)
        return tf.reduce_sum(weights * cosines, axis=2), lengths

    def outliers(self, embeddings, labels, threshold=math.radians(75)):
        """Returns which rows are far from where most rows of their class are.

        Of a class's sub-centers the dominant one is the nearest to most of its rows. A row
        with a larger angle to it than the threshold is an outlier: its label may be wrong.

        Args:
            embeddings: array `[N, D]` of all rows, as `predict` of the model returns them.
            labels: array `[N]`, integers from 0 to C - 1.
            threshold: an angle in radians, 0 to pi.

        Returns:
            Array of bool `[N]`.

        Raises:
            ValueError: if the head is not built, or an argument is invalid.

        Example:

        >>> import numpy as np
        >>> head = CosineHead(num_classes=1, sub_centers=2)
        >>> head.build([None, 2])
        >>> head.set_weights([np.array([[1.0, 0.0], [0.0, 1.0]])])
        >>> rows = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0]])
        >>> head.outliers(rows, [0, 0, 0]).tolist()
        [False, False, True]

        Reference:
            Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy
            Web Faces", 2020, https://doi.org/10.1007/978-3-030-58621-8_43

        Relations:
            get_outliers of pytorch-metric-learning's SubCenterArcFaceLoss, which returns
            the indices of these rows; its threshold is in degrees.
        """
        threshold = number(
            "threshold",
            threshold,
            "an angle in radians, 0 to pi, as in math.radians(75)",
            lambda angle: 0 <= angle <= math.pi,
        )
        if not self.built:
            raise ValueError(
                "Expected a trained head. Received one without centers yet: train its "
                "model, or load one that was trained."
            )
        embeddings, dim = np.asarray(embeddings), self.centers.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != dim:
            raise ValueError(
                f"Expected embeddings [N, {dim}]. Received: embeddings of shape "
                f"{embeddings.shape}. Give what `predict` of the head's model returns."
            )
        rows = tf.cast(embeddings, self.variable_dtype)
        labels = check_labels(as_tensor(labels, "labels"), rows, self.num_classes).numpy()
        rows = distances.l2_normalize(rows).numpy()
        centers = distances.l2_normalize(self._all_centers()).numpy()
        centers = centers.reshape(self.num_classes, self.sub_centers, -1)
        cosines = np.zeros([len(rows), self.sub_centers], rows.dtype)
        for start in range(0, len(rows), 1024):  # else [N, K, D] at once
            part = slice(start, start + 1024)
            cosines[part] = np.einsum("nd,nkd->nk", rows[part], centers[labels[part]])
        counts = np.zeros([self.num_classes, self.sub_centers], int)
        np.add.at(counts, (labels, cosines.argmax(axis=1)), 1)
        dominant = counts.argmax(axis=1)[labels]  # [N]
        return cosines[np.arange(len(rows)), dominant] < math.cos(threshold)


@keras.saving.register_keras_serializable("tfembloss")
class MarginHead(Configurable, keras.layers.Layer):
    """Embeddings, and behind them the learned boundaries of `tfembloss.losses.MarginLoss`.

    `tfembloss.EmbeddingClassifier` trains it with an encoder, by
    `MarginLoss(num_betas=num_betas)`.

    Call arguments: embeddings `[B, D]`. Returns `[B, D + num_betas]`, in the precision of
    the boundaries, whatever the dtype policy.

    Args:
        num_betas: number of boundaries, 1 or the number of classes.
        beta: the distance at which they begin.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if an argument or the input shape is invalid.

    Example:

    >>> import numpy as np
    >>> head = MarginHead(num_betas=2, beta=0.5)
    >>> head(np.array([[1.0, 2.0, 3.0]])).numpy().tolist()
    [[1.0, 2.0, 3.0, 0.5, 0.5]]

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567

    Relations:
        These are the weights of pytorch-metric-learning's MarginLoss with
        `learn_beta=True`. The paper also learns a part of each row.
    """

    def __init__(self, num_betas=1, beta=1.2, **kwargs):
        super().__init__(**kwargs)
        self.num_betas = integer("num_betas", num_betas, 1)
        self.beta = number("beta", beta)

    def build(self, shape):
        """Builds the boundaries."""
        if len(shape) != 2:
            raise ValueError(
                "MarginHead takes embeddings [B, D] of one column of inputs. Received: "
                f"shape={tuple(shape)}"
            )
        self.betas = self.add_weight(
            shape=(self.num_betas,),
            initializer=keras.initializers.Constant(self.beta),
            name="betas",
            autocast=False,
        )

    def call(self, embeddings):
        """Returns `[B, D + num_betas]`."""
        embeddings = tf.cast(embeddings, self.variable_dtype)
        shape = tf.stack([tf.shape(embeddings)[0], self.num_betas])
        betas = tf.broadcast_to(self.betas.value, shape)
        return tf.concat([embeddings, betas], axis=1)

    def compute_output_shape(self, shape):
        """Returns `[B, D + num_betas]`."""
        return (shape[0], shape[1] + self.num_betas)


@keras.saving.register_keras_serializable("tfembloss")
class PairHead(Configurable, keras.layers.Layer):
    r"""Logits of the relation of two embeddings, such as entailment or contradiction.

    $$y_i = W [u_i; v_i; |u_i - v_i|; u_i v_i] + b$$

    with the chosen parts, in this order. `tfembloss.EmbeddingClassifier` trains it with an
    encoder, by `tfembloss.losses.SoftmaxLoss`.

    Call arguments: columns `[B, 2, D]`. Returns logits `[B, num_labels]`, in the precision
    of the weights, whatever the dtype policy.

    Args:
        num_labels: number of labels, >= 1.
        embeddings: whether to use u and v.
        difference: whether to use |u - v|.
        product: whether to use the elementwise product u v.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if no part is chosen, or `num_labels` or the input shape is invalid.

    Example:

    >>> import numpy as np
    >>> PairHead(num_labels=3)(np.ones([4, 2, 5])).shape
    TensorShape([4, 3])

    Reference:
        Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
        BERT-Networks", 2019, https://arxiv.org/abs/1908.10084

    Relations:
        This is the classifier of sentence-transformers' SoftmaxLoss: `embeddings`,
        `difference` and `product` are its concatenation_sent_rep,
        concatenation_sent_difference and concatenation_sent_multiplication.
    """

    def __init__(
        self,
        num_labels,
        embeddings=True,
        difference=True,
        product=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_labels = integer("num_labels", num_labels, 1)
        self.embeddings, self.difference, self.product = embeddings, difference, product
        if not (embeddings or difference or product):
            raise ValueError(
                "Expected at least one of `embeddings`, `difference` and `product` to be "
                "true. Received none."
            )

    def build(self, shape):
        """Builds the weights."""
        if len(shape) != 3 or shape[1] != 2:
            raise ValueError(
                "PairHead takes the columns [B, 2, D] of a tuple of two inputs. Received: "
                f"shape={tuple(shape)}"
            )
        parts = 2 * bool(self.embeddings) + bool(self.difference) + bool(self.product)
        self.kernel = self.add_weight(
            shape=(parts * shape[2], self.num_labels), name="kernel", autocast=False
        )
        self.bias = self.add_weight(
            shape=(self.num_labels,), initializer="zeros", name="bias", autocast=False
        )

    def call(self, columns):
        """Returns logits `[B, num_labels]`."""
        columns = tf.cast(columns, self.variable_dtype)
        u, v = tf.unstack(columns, 2, axis=1)  # [B, D] each
        parts = [u, v] if self.embeddings else []
        if self.difference:
            parts.append(tf.abs(u - v))
        if self.product:
            parts.append(u * v)
        return tf.matmul(tf.concat(parts, axis=1), self.kernel) + self.bias

    def compute_output_shape(self, shape):
        """Returns `[B, num_labels]`."""
        return (shape[0], self.num_labels)
