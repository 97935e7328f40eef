"""A learned Mahalanobis distance."""

import keras
import tensorflow as tf

from tfembloss.checks import integer
from tfembloss.config import Configurable


@keras.saving.register_keras_serializable("tfembloss")
class Mahalanobis(Configurable, keras.layers.Layer):
    r"""Maps rows so that their euclidean distance is a learned Mahalanobis distance.

    $$d(a, b) = \sqrt{(a - b)^T M (a - b)} = \lVert L^T a - L^T b \rVert, \quad M = L L^T$$

    M is positive semidefinite, whatever L is learned. With fewer units than dimensions, its
    rank is the number of units, and the embeddings become shorter.

    As the last layer of a model, with a loss of `distance="euclidean"` or
    `"squared_euclidean"`, it learns the distance together with the encoder, or for given
    embeddings alone.

    Call arguments: `x [..., D]`. Returns `[..., units]`.

    Args:
        units: number of columns of L, >= 1; None for D.
        kernel_initializer: of L; the identity makes it begin as the euclidean distance.
        kernel_regularizer: of L; None for none.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if `units` is invalid.

    Example:

    >>> import keras, numpy as np, tfembloss
    >>> ids = np.arange(64) % 4
    >>> noise = 3 * np.random.default_rng(0).normal(size=64)
    >>> x = np.stack([ids, noise], axis=1).astype("float32")
    >>> model = tfembloss.EmbeddingModel(keras.Sequential([Mahalanobis()]))
    >>> model.compile("adam", tfembloss.losses.NCALoss(distance="euclidean"))
    >>> _ = model.fit(x, ids, epochs=2, verbose=0)
    >>> of_class, of_noise = np.diag(model.encoder.layers[0].matrix)
    >>> bool(of_class > 1 > of_noise)
    True

    Reference:
        Weinberger and Saul, "Distance Metric Learning for Large Margin Nearest Neighbor
        Classification", 2009, https://jmlr.org/papers/v10/weinberger09a.html

    Relations:
        `kernel` is the transpose of metric-learn's `components_`, and `matrix` is what its
        `get_mahalanobis_matrix()` returns.
    """

    def __init__(
        self,
        units=None,
        kernel_initializer="identity",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = None if units is None else integer("units", units, 1, hint=", or None")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, shape):
        """Builds L."""
        self.kernel = self.add_weight(
            shape=(shape[-1], self.units or shape[-1]),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            name="kernel",
        )

    def call(self, x):
        """Returns rows `[..., units]`."""
        return keras.ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        """Returns the shape of the result."""
        return (*shape[:-1], self.units or shape[-1])

    @property
    def matrix(self):
        """M, `[D, D]`. Raises ValueError before the layer is built."""
        if not self.built:
            raise ValueError(
                "Expected a layer that is built, of which D is known. Received: "
                f"{self.name}, which was not called yet."
            )
        kernel = tf.convert_to_tensor(self.kernel)
        return tf.matmul(kernel, kernel, transpose_b=True)
