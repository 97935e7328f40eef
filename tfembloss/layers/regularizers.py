"""Regularizers of the centers of a `CosineHead`."""

import keras
import tensorflow as tf

from tfembloss import distances
from tfembloss.checks import integer, non_negative
from tfembloss.config import Configurable
from tfembloss.masks import row_max


class _OfCenters(Configurable):
    """Base of the regularizers, as Keras takes them: functions of a weight to a number."""

    def __init__(self, weight=1.0):
        self.weight = non_negative("weight", weight)

    def __call__(self, x):
        """Returns the regularization of centers x."""
        return self.weight * self.value(tf.convert_to_tensor(x))


@keras.saving.register_keras_serializable("tfembloss")
class CenterInvariantRegularizer(_OfCenters):
    r"""Keeps the centers at the same length, so that no class has an advantage.

    $$\frac{1}{C} \sum_c \tfrac14 \big(|w_c|^2 - \overline{|w|^2}\big)^2$$

    Args:
        weight: factor of the value, >= 0.

    Raises:
        ValueError: if the weight is invalid.

    Example:

    >>> float(CenterInvariantRegularizer()([[1.0, 0.0], [0.0, 2.0]]))
    0.5625

    Reference:
        Wu et al., "Deep Face Recognition with Center Invariant Loss", 2017,
        https://doi.org/10.1145/3126686.3126693

    Relations:
        pytorch-metric-learning's class of the same name. A `CosineHead` uses directions
        only, so that there it acts on later learning rates alone.
    """

    def value(self, centers):
        """Returns the value of centers `[C, D]`."""
        squares = distances.sum_last(centers * centers)  # [C]
        return tf.reduce_mean((squares - tf.reduce_mean(squares)) ** 2) / 4


@keras.saving.register_keras_serializable("tfembloss")
class RegularFaceRegularizer(_OfCenters):
    r"""Pushes each center away from the nearest other one.

    $$\frac{1}{C} \sum_c \max_{k \neq c} \cos(w_c, w_k)$$

    Args:
        weight: factor of the value, >= 0.

    Raises:
        ValueError: if the weight is invalid.

    Example:

    >>> float(RegularFaceRegularizer()([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
    0.0

    Reference:
        Zhao et al., "RegularFace: Deep Face Recognition via Exclusive Regularization",
        2019, https://doi.org/10.1109/CVPR.2019.00123

    Relations:
        pytorch-metric-learning's class of the same name.
    """

    def value(self, centers):
        """Returns the value of centers `[C, D]`."""
        if centers.shape[0] == 1:
            return tf.zeros([], centers.dtype)  # there is no other
        centers = distances.l2_normalize(centers)
        cosines = tf.matmul(centers, centers, transpose_b=True)  # [C, C]
        others = ~tf.eye(tf.shape(centers)[0], dtype=tf.bool)
        return tf.reduce_mean(row_max(cosines, others))


@keras.saving.register_keras_serializable("tfembloss")
class SparseCentersRegularizer(_OfCenters):
    r"""Draws the sub-centers of a class together, so that it uses few of them.

    $$\frac{1}{C K (K - 1)} \sum_c \sum_{i < j} |w_{ci} - w_{cj}|$$

    of centers at length 1.

    Args:
        sub_centers: K, as of the `CosineHead`, >= 2.
        weight: factor of the value, >= 0.

    Raises:
        ValueError: if an argument is invalid, or the centers are not K of each class.

    Example:

    >>> float(SparseCentersRegularizer(2)([[1.0, 0.0], [-1.0, 0.0]]))
    1.0

    Reference:
        Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", 2019,
        https://arxiv.org/abs/1909.05235

    Relations:
        pytorch-metric-learning's class of the same name, whose `num_classes` follows from
        the centers here.
    """

    def __init__(self, sub_centers, weight=1.0):
        super().__init__(weight)
        self.sub_centers = integer("sub_centers", sub_centers, 2)

    def value(self, centers):
        """Returns the value of centers `[C * K, D]`."""
        if centers.shape[0] % self.sub_centers:
            raise ValueError(
                f"Expected {self.sub_centers} sub-centers of each class. Received: centers "
                f"of shape {tuple(centers.shape)}. Give the head and the regularizer the "
                "same sub_centers."
            )
        count = self.sub_centers
        centers = distances.l2_normalize(centers)
        centers = tf.reshape(centers, [-1, count, centers.shape[1]])  # [C, K, D]
        difference = centers[:, :, None] - centers[:, None]  # [C, K, K, D]
        lengths = distances.root(distances.sum_last(difference**2))
        # Each pair is there twice.
        return tf.reduce_mean(tf.reduce_sum(lengths, axis=[1, 2])) / (
            2 * count * (count - 1)
        )
