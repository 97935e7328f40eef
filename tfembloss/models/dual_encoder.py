"""Two encoders, one encoder per modality, with embeddings in one space."""

import keras
import tensorflow as tf

from tfembloss import checks
from tfembloss.distances import directions
from tfembloss.losses.regularizers import Regularizer
from tfembloss.losses.wrappers import single_losses
from tfembloss.models.base import ColumnModel, check_no_strings, column_shapes
from tfembloss.models.embedding_model import EmbeddingModel
from tfembloss.models.encoder_model import EncoderModel, known_dim
from tfembloss.models.scale import (
    add_log_scale,
    add_number,
    check_scale,
    exclude_from_weight_decay,
)


@keras.saving.register_keras_serializable("tfembloss")
class DualEncoder(ColumnModel):
    r"""Trains two towers, one encoder per modality, with `CLIPLoss` or `SigLIPLoss`.

    Embeddings are vectors of length 1, `[B, 2, D]`, with a column for each tower. For the
    loss, the learned scale s and bias t are folded into them, $a = [s\,x;\; t]$ and
    $b = [y;\; 1]$, so that $a \cdot b = s \cos(x, y) + t$ is the logit. Losses on cosines,
    such as `MultipleNegativesRankingLoss`, can be used if there is no bias.

    Each tower is also an `EmbeddingModel`:
    `model.towers["text"].predict(["a red circle"])`,
    `tfembloss.export_encoder(model.towers["text"], "saved_models/text")`.

    Call arguments: a tuple of two columns in the order of the towers, or a dict of columns
    by the names of the towers.

    Args:
        towers: dict of two towers by name: Keras models or layers from inputs to embeddings
            `[rows, D]`, or an `EmbeddingModel`, whose preprocessor then takes raw inputs.
        learn_scale: whether scale and bias are learned. The scale stays between 1 and 100.
        initial_scale: initial value of the scale, 1 to 100: 1 / 0.07 for `CLIPLoss`, 10 for
            `SigLIPLoss`.
        initial_bias: initial value of the bias, -10 for `SigLIPLoss`; None for no bias.
        mini_batch_size: number of rows of a batch that go through both towers at once; see
            `EmbeddingModel`. A tower's own `mini_batch_size` is only used when the tower is
            trained alone.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: if an argument is invalid; at the call, if an input is missing or the
            dimensions of the towers differ.

    Example:

    >>> import numpy as np, tfembloss
    >>> images, texts = np.random.rand(8, 4, 4).astype("float32"), np.eye(8)
    >>> model = DualEncoder(
    ...     {
    ...         "image": keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]),
    ...         "text": keras.Sequential([keras.layers.Dense(3)]),
    ...     }
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.CLIPLoss())
    >>> history = model.fit((images, texts), verbose=0)
    >>> sorted(history.history)
    ['loss', 'scale']
    >>> model.towers["image"].predict(images, verbose=0).shape
    (8, 3)

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", 2021, https://arxiv.org/abs/2103.00020
    """

    def __init__(
        self,
        towers,
        learn_scale=True,
        initial_scale=1 / 0.07,
        initial_bias=None,
        mini_batch_size=None,
        name=None,
        dtype=None,
    ):
        super().__init__(mini_batch_size, name=name, dtype=dtype)
        is_dict = isinstance(towers, dict) and len(towers) == 2
        if not is_dict or not all(
            isinstance(tower, keras.layers.Layer) for tower in towers.values()
        ):
            raise ValueError(
                "`towers` must be a dict of two Keras models or layers, such as "
                '{"image": image_encoder, "text": text_encoder}. Received: '
                f"towers={towers!r}"
            )
        self.initial_scale = check_scale(initial_scale)
        self.initial_bias = initial_bias
        if initial_bias is not None:
            self.initial_bias = checks.number("initial_bias", initial_bias)
        self.learn_scale = bool(learn_scale)
        self.towers = {
            name: tower if isinstance(tower, EncoderModel) else EmbeddingModel(tower)
            for name, tower in towers.items()
        }
        self.log_scale = add_log_scale(self, self.initial_scale, self.learn_scale)
        self.scale_metric = keras.metrics.Mean(name="scale")
        self.bias = None
        if self.initial_bias is not None:
            self.bias = add_number(self, self.initial_bias, "bias", self.learn_scale)
            self.bias_metric = keras.metrics.Mean(name="bias")

    @property
    def scale(self):
        """The scale of the cosines, a tensor."""
        return tf.exp(self.log_scale)

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """`keras.Model.compile`; weight decay leaves scale and bias alone."""
        super().compile(optimizer, loss, *args, **kwargs)
        numbers = [self.log_scale] if self.bias is None else [self.log_scale, self.bias]
        exclude_from_weight_decay(self.optimizer, numbers)

    def _checked_loss(self, loss):
        loss = super()._checked_loss(loss)
        for part in single_losses(loss):
            by_cosine = getattr(part, "similarity", None) == "cosine"
            if isinstance(part, Regularizer) and not by_cosine:
                raise ValueError(
                    "A DualEncoder's embeddings have length 1 and carry the scale: "
                    "expected regularizers of cosines only, such as "
                    "GlobalOrthogonalRegularizationLoss. "
                    f"Received: {type(part).__name__}."
                )
            compares_by = getattr(part, "similarity", getattr(part, "distance", "dot"))
            if self.bias is not None and compares_by != "dot":
                raise ValueError(
                    "With `initial_bias`, expected a loss of dot products, such as "
                    "SigLIPLoss or CLIPLoss: the bias is folded into the columns. "
                    f"Received: {type(part).__name__} of {compares_by!r}. Leave "
                    "initial_bias out."
                )
        return loss

    # Columns in, embeddings out.

    def build(self, input_shape):
        """Builds the towers from the shapes of the columns."""
        is_dict = isinstance(input_shape, dict)
        shapes = self._columns(input_shape if is_dict else column_shapes(input_shape))
        for tower, shape in zip(self.towers.values(), shapes, strict=True):
            if not tower.built:
                tower.build(shape)
        self.built = True

    def _known_inputs(self):
        """Returns the inputs of both towers."""
        columns = tuple(tower._known_inputs() for tower in self.towers.values())
        return None if None in columns else columns

    def _known_outputs(self, x):
        """Returns symbolic embeddings of built towers with known output shapes."""
        dims = {known_dim(tower.encoder) for tower in self.towers.values()}
        if len(dims) > 1 or None in dims:
            return None
        return keras.KerasTensor((None, 2, *dims), "float32")

    def call(self, x, training=None):
        """Returns embeddings `[B, 2, D]` of length 1."""
        check_no_strings(x)
        columns = [
            directions(tf.cast(tower(column, training=training), tf.float32))
            for tower, column in zip(self.towers.values(), self._columns(x), strict=True)
        ]
        dims = [column.shape[-1] for column in columns]
        if dims[0] != dims[1]:
            raise ValueError(
                "Expected towers with embeddings of the same dimension. Received: "
                f"{dict(zip(self.towers, dims, strict=True))}. Add a keras.layers.Dense to "
                "one of them."
            )
        return tf.stack(columns, axis=1)

    def _columns(self, x):
        """Returns the inputs in the order of the towers."""
        if isinstance(x, dict) and set(x) == set(self.towers):
            return tuple(x[name] for name in self.towers)
        if isinstance(x, (tuple, list)) and len(x) == 2:
            return tuple(x)
        names = ", ".join(self.towers)
        num_columns = len(x) if isinstance(x, (tuple, list)) else 1
        received = sorted(x) if isinstance(x, dict) else f"{num_columns} column(s)"
        raise ValueError(
            f"Expected inputs of both towers: a tuple ({names}), or a dict by these names. "
            f"Received: {received}. For one tower alone use model.towers[name], as in "
            f'model.towers["{next(iter(self.towers))}"].predict(x).'
        )

    # Loss from embeddings.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the embeddings with scale and bias."""
        first, second = tf.unstack(y_pred, 2, axis=1)  # [B, D] each
        first *= self.scale
        if self.bias is not None:
            one = tf.ones_like(first[:, :1])
            first = tf.concat([first, self.bias * one], axis=1)  # [B, D + 1]
            second = tf.concat([second, one], axis=1)
        logits = tf.stack([first, second], axis=1)  # their dot products
        return super().compute_loss(x, y, logits, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics of the embeddings, the scale and the bias."""
        self.scale_metric.update_state(self.scale)
        if self.bias is not None:
            self.bias_metric.update_state(self.bias)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # Raw inputs.

    @property
    def takes_raw_inputs(self):
        """Whether a tower has a preprocessor."""
        return any(tower.takes_raw_inputs for tower in self.towers.values())

    def encoder_inputs(self, x, training=False):
        """Applies each tower's preprocessor to its column."""
        return tuple(
            tower.encoder_inputs(column, training, xla=self.jit_compile)
            if tower.takes_raw_inputs
            else column
            for tower, column in zip(self.towers.values(), self._columns(x), strict=True)
        )
