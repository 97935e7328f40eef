"""Gradient caching: a step on a large batch in the memory of a few of its rows.

The loss gets the embeddings of the whole batch, the encoder only one mini-batch at a time:

1. Embed all mini-batches without gradient.
2. Compute the loss of all embeddings, and its gradient with respect to each of them.
3. Embed every mini-batch again, this time with gradient, and backpropagate from the
   gradients of step 2: by the chain rule, the sum over the mini-batches is the gradient of
   the whole batch.

Dropout is the same in 1 and 3, because Keras's seed generators are reset between them.
Other states that a layer changes when it is called, such as those of SpectralNormalization,
are reset before each mini-batch, so that all get the same ones, as in the whole batch. A
state that depends on the rows, and differences between 1 and 3, such as draws from
`tf.random`, are refused.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021,
https://arxiv.org/abs/2101.06983
"""

import warnings

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.losses.inputs import require


def train_step(model, data):
    """`keras.Model.train_step` with the encoder's gradient in mini-batches."""
    _check_batch_norm(model)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    batches = MiniBatches(x, model.mini_batch_size)
    seeds = model._seed_states()
    states = States(model._encoder_layers(), seeds)

    start = [tf.convert_to_tensor(seed) for seed in seeds]
    cache = embed(model, batches, states, training=True)
    with tf.GradientTape() as tape:
        tape.watch(cache)
        y_pred = batches.joined(cache) + states.nan_where_rows_differ(cache.dtype)
        loss = _tracked_loss(model, batches, x, y, y_pred, sample_weight, training=True)
        loss = model.optimizer.scale_loss(loss)
    variables = model.trainable_weights
    upstream, gradients = tape.gradient(loss, [cache, variables])
    if upstream is not None:
        end = [tf.convert_to_tensor(seed) for seed in seeds]  # a head may have drawn, too
        assign_seeds(seeds, start)
        # Otherwise a graph may start early, and hold activations during the loss.
        with tf.control_dependencies([upstream]):
            of_encoder = encoder_gradients(
                model, batches, variables, upstream, cache, states
            )
        assign_seeds(seeds, end)
        gradients = [_sum(*both) for both in zip(gradients, of_encoder, strict=True)]
    # Replicas reduce their gradients here, once: a loop does not support collectives.
    if variables:
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def test_step(model, data):
    """`keras.Model.test_step` with the embeddings in mini-batches."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    batches = MiniBatches(x, model.mini_batch_size)
    no_states = States([], [])  # evaluation changes none
    y_pred = batches.joined(embed(model, batches, no_states, training=False))
    _tracked_loss(model, batches, x, y, y_pred, sample_weight, training=False)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


class MiniBatches:
    """The M mini-batches of a batch x, m rows in each.

    XLA requires a fixed number of rows, so the last row of the batch is repeated to fill
    the last mini-batch. A replica may have no rows at the end of an epoch: then there is
    one mini-batch of zeros.
    """

    def __init__(self, x, size):
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        self.size = size
        self.num_rows = tf.shape(tf.nest.flatten(x)[0])[0]  # B
        self.count = tf.maximum(-(-self.num_rows // size), 1)  # M
        one_if_empty = tf.cast(self.num_rows == 0, tf.int32)
        self.x = tf.nest.map_structure(
            lambda column: tf.pad(
                column, [[0, one_if_empty], *[[0, 0]] * (column.shape.rank - 1)]
            ),
            x,
        )

    def __getitem__(self, i):
        """Returns mini-batch i, in the structure of x."""
        last = tf.maximum(self.num_rows, 1) - 1
        rows = tf.minimum(i * self.size + tf.range(self.size), last)  # [m]
        return tf.nest.map_structure(lambda column: tf.gather(column, rows), self.x)

    def joined(self, parts):
        """Returns rows `[B, ...]` of `[M, m, ...]`, without the repeated ones."""
        rows = tf.reshape(parts, tf.concat([[-1], tf.shape(parts)[2:]], axis=0))
        return rows[: self.num_rows]


# In both loops, the first mini-batch is outside: it defines what the loop carries.


def embed(model, batches, states, training):
    """Returns embeddings `[M, m, ...]` of the mini-batches."""
    first = model(batches[0], training=training)
    _check_losses(model)
    states.moved_by_first()

    def one_more(i, carried):
        parts, differ = carried
        states.set_back()
        parts = parts.write(i, model(batches[i], training=training))
        return i + 1, (parts, states.differ(differ))

    parts = tf.TensorArray(first.dtype, batches.count, element_shape=first.shape)
    carried = (parts.write(0, first), states.none_differ())
    parts, states.rows_differ = _loop(batches, one_more, carried, after=[first])
    return parts.stack()


def encoder_gradients(model, batches, variables, upstream, cache, states):
    """Returns the gradients of the variables through the embeddings of all mini-batches.

    Args:
        model: the encoder.
        batches: its inputs, `MiniBatches`.
        variables: list of variables.
        upstream: gradient of the embeddings `[M, m, ...]`.
        cache: the embeddings `[M, m, ...]` of the first pass, to compare with.
        states: `States`, reset before each mini-batch.

    Returns:
        List of tensors; None for a variable that no embedding depends on.
    """

    def of_one(i):
        states.set_back()
        with tf.GradientTape() as tape:
            embeddings = model(batches[i], training=True)
        found = tape.gradient(embeddings, variables, tf.gather(upstream, i))
        found = [
            # Dense: a loop carries no IndexedSlices.
            None if g is None else tf.ensure_shape(tf.convert_to_tensor(g), v.shape)
            for g, v in zip(found, variables, strict=True)
        ]
        return found, _far_apart(embeddings, tf.gather(cache, i))

    def one_more(i, carried):
        totals, differ = carried
        found, differs = of_one(i)
        found = [g for g in found if g is not None]
        totals = [t + g for t, g in zip(totals, found, strict=True)]
        return i + 1, (totals, differ | differs)

    first, differs = of_one(0)
    found = [g for g in first if g is not None]
    totals, differ = _loop(batches, one_more, (found, differs), after=found)
    nan = _refuse(
        differ,
        "With `mini_batch_size`, expected an encoder that computes the same when it is "
        "called again, for it gets each mini-batch twice. Received: one whose embeddings "
        "differ, such as a layer that draws from tf.random. Draw from a "
        "keras.random.SeedGenerator that the layer owns, or leave out `mini_batch_size`.",
    )
    totals = iter([total + tf.cast(nan, total.dtype) for total in totals])
    return [None if g is None else next(totals) for g in first]


def _loop(batches, body, carried, after):
    """Runs `body(i, carried)` from the second mini-batch to the last."""
    # Otherwise a graph may start the second while it holds the first one's activations.
    with tf.control_dependencies(after):
        second = tf.identity(1)
    _, carried = tf.while_loop(
        lambda i, _: i < batches.count, body, (second, carried), parallel_iterations=1
    )
    return carried


class States:
    """The states of layers, besides weights and seeds, as they were before the batch.

    Each mini-batch starts from these. States that do not depend on rows are then the same
    after every mini-batch, as after the whole batch; any others are refused.
    """

    def __init__(self, layers, seeds):
        skipped = {id(seed) for seed in seeds}
        self.variables, self.names = [], []
        for layer in layers:
            keeps = [v for v in layer._non_trainable_variables if id(v) not in skipped]
            # A layer with a state may change its weights as well, like
            # SpectralNormalization.
            for variable in layer.variables if keeps else []:
                if id(variable) not in skipped:
                    skipped.add(id(variable))
                    self.variables.append(variable)
                    self.names.append(layer.name)
        self.before = [tf.convert_to_tensor(v) for v in self.variables]

    def moved_by_first(self):
        """Stores the states after the first mini-batch."""
        self.after = [tf.convert_to_tensor(v) for v in self.variables]

    def set_back(self):
        """Resets the states to those before the batch."""
        for variable, value in zip(self.variables, self.before, strict=True):
            variable.assign(value)

    def none_differ(self):
        """Returns False for each state: none has differed so far."""
        return [tf.constant(False) for _ in self.variables]

    def differ(self, before):
        """Returns for each state whether it ever differed from that of the first."""
        return [
            one | _far_apart(tf.convert_to_tensor(variable), after)
            for one, variable, after in zip(before, self.variables, self.after, strict=True)
        ]

    def nan_where_rows_differ(self, dtype):
        """Returns 0; raises an error, or returns NaN in XLA, if a state depends on rows."""
        nan = tf.zeros([], dtype)
        for name, differs in zip(self.names, self.rows_differ, strict=True):
            nan += tf.cast(
                _refuse(
                    differs,
                    "With `mini_batch_size`, expected an encoder that treats every row by "
                    f"itself. Received: layer {name!r}, which updates a state from the "
                    "batch, and so would from each mini-batch. Freeze it, layer.trainable "
                    "= False, if that stops it, or leave out `mini_batch_size`.",
                ),
                dtype,
            )
        return nan


def _far_apart(a, b):
    """Whether two tensors differ by more than rounding."""
    if not a.dtype.is_floating:
        return tf.reduce_any(a != b)
    a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    size = tf.reduce_max(tf.abs(b)) if b.shape.rank else tf.abs(b)
    return tf.reduce_any(tf.abs(a - b) > 1e-2 * size)  # not for NaN, which shows anyway


def _refuse(wrong, message):
    """Returns 0; if wrong, raises an error, or returns NaN in code that XLA compiles."""
    return tf.where(wrong, float("nan"), require(~wrong, tf.zeros([]), message))


def assign_seeds(seeds, values):
    """Resets random layers, so that the same rows get the same dropout again."""
    for seed, value in zip(seeds, values, strict=True):
        seed.assign(value)


def _tracked_loss(model, batches, x, y, y_pred, sample_weight, training):
    """Computes the loss, and records it for the model's history as Keras does."""
    loss = model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )
    model._loss_tracker.update_state(
        loss * replicas.count(), sample_weight=batches.num_rows
    )
    return loss


def _sum(a, b):
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + b


def _check_batch_norm(model):
    names = [
        layer.name
        for layer in model._encoder_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if names:
        raise ValueError(
            "With `mini_batch_size`, expected an encoder that treats every row by itself. "
            f"Received: BatchNormalization layers {names}, which would take the statistics "
            "of each mini-batch, and twice. Freeze them, layer.trainable = False, or use "
            "LayerNormalization or GroupNormalization."
        )


def _check_losses(model):
    names = [layer.name for layer in model._flatten_layers() if layer._losses]
    if names:
        raise ValueError(
            "With `mini_batch_size`, expected an encoder whose layers add no losses when "
            f"they are called. Received: layers {names} with an activity_regularizer or "
            "add_loss. Regularize their weights instead, kernel_regularizer, or leave out "
            "`mini_batch_size`."
        )
