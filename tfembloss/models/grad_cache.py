"""Gradient caching: a step on a large batch in the memory of a few of its rows.

The loss sees the embeddings of the whole batch, the encoder never more than a mini-batch:

1. Embed all mini-batches without gradient.
2. Take the loss of all embeddings, and its gradient with respect to each of them.
3. Embed every mini-batch again, this time with gradient, and carry on from there: by the
   chain rule the sum over the mini-batches is the gradient of the whole.

Dropout is the same in 1 and in 3, because Keras's seed generators are set back between
them. What a layer draws from elsewhere, `tf.random` say, would differ.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021,
https://arxiv.org/abs/2101.06983
"""

import warnings

import keras
import tensorflow as tf

from tfembloss import replicas


def check_size(mini_batch_size):
    """None or a whole number of rows, or a ValueError that says what it should be."""
    is_number = isinstance(mini_batch_size, int) and not isinstance(mini_batch_size, bool)
    if mini_batch_size is None or (is_number and mini_batch_size >= 1):
        return mini_batch_size
    raise ValueError(
        "`mini_batch_size` is how many rows of a batch go through the encoder at once: "
        "expected a whole number >= 1, or None for all of them. Received: "
        f"mini_batch_size={mini_batch_size!r}"
    )


def train_step(model, data):
    """`keras.Model.train_step` with the encoder's gradient by mini-batches."""
    _check_batch_norm(model)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    batches = MiniBatches(x, model.mini_batch_size)
    seeds = model._seed_states()

    start = [tf.convert_to_tensor(seed) for seed in seeds]
    cache = embed(model, batches, training=True)
    with tf.GradientTape() as tape:
        tape.watch(cache)
        y_pred = batches.joined(cache)
        loss = _tracked_loss(model, batches, x, y, y_pred, sample_weight, training=True)
        loss = model.optimizer.scale_loss(loss)
    variables = model.trainable_weights
    upstream, gradients = tape.gradient(loss, [cache, variables])
    if upstream is not None:
        end = [tf.convert_to_tensor(seed) for seed in seeds]  # a head may have drawn, too
        assign_seeds(seeds, start)
        # Else a graph may begin early, and hold activations while it computes the loss.
        with tf.control_dependencies([upstream]):
            of_encoder = encoder_gradients(model, batches, variables, upstream)
        assign_seeds(seeds, end)
        gradients = [_sum(*both) for both in zip(gradients, of_encoder, strict=True)]
    # Replicas add up their gradients here, once: a loop has no place for collectives.
    if variables:
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def test_step(model, data):
    """`keras.Model.test_step` with the embeddings by mini-batches."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    batches = MiniBatches(x, model.mini_batch_size)
    y_pred = batches.joined(embed(model, batches, training=False))
    _tracked_loss(model, batches, x, y, y_pred, sample_weight, training=False)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


class MiniBatches:
    """The M mini-batches of a batch x, m rows in each.

    XLA needs a number of rows that it knows, so the last row of the batch is repeated
    until the last mini-batch has as many. A replica may have no rows at all, at the end of
    an epoch: then there is one mini-batch, of zeros.
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
        """Mini-batch i, in the structure of x."""
        last = tf.maximum(self.num_rows, 1) - 1
        rows = tf.minimum(i * self.size + tf.range(self.size), last)  # [m]
        return tf.nest.map_structure(lambda column: tf.gather(column, rows), self.x)

    def joined(self, parts):
        """Rows `[B, ...]` of `[M, m, ...]`, without those that were repeated."""
        rows = tf.reshape(parts, tf.concat([[-1], tf.shape(parts)[2:]], axis=0))
        return rows[: self.num_rows]


# In both loops the first mini-batch is outside: it tells what the loop carries.


def embed(model, batches, training):
    """Embeddings `[M, m, ...]` of the mini-batches."""
    first = model(batches[0], training=training)
    _check_losses(model)

    def one_more(i, parts):
        return i + 1, parts.write(i, model(batches[i], training=training))

    parts = tf.TensorArray(first.dtype, batches.count, element_shape=first.shape)
    return _loop(batches, one_more, parts.write(0, first), after=[first]).stack()


def encoder_gradients(model, batches, variables, upstream):
    """What the embeddings of all mini-batches add to the gradients of the variables.

    Args:
        model: the encoder.
        batches: its inputs, `MiniBatches`.
        variables: list of variables.
        upstream: gradient of the embeddings `[M, m, ...]`.

    Returns:
        List of tensors; None for a variable that no embedding depends on.
    """

    def of_one(i):
        with tf.GradientTape() as tape:
            embeddings = model(batches[i], training=True)
        found = tape.gradient(embeddings, variables, tf.gather(upstream, i))
        return [
            # Dense: a loop carries no IndexedSlices.
            None if g is None else tf.ensure_shape(tf.convert_to_tensor(g), v.shape)
            for g, v in zip(found, variables, strict=True)
        ]

    def one_more(i, totals):
        found = [g for g in of_one(i) if g is not None]
        return i + 1, [t + g for t, g in zip(totals, found, strict=True)]

    first = of_one(0)
    found = [g for g in first if g is not None]
    totals = iter(_loop(batches, one_more, found, after=found))
    return [None if g is None else next(totals) for g in first]


def _loop(batches, body, carried, after):
    """What `body(i, carried)` makes of it, from the second mini-batch to the last."""
    # Else a graph begins with the second while it still holds the activations of the first.
    with tf.control_dependencies(after):
        second = tf.identity(1)
    _, carried = tf.while_loop(
        lambda i, _: i < batches.count, body, (second, carried), parallel_iterations=1
    )
    return carried


def assign_seeds(seeds, values):
    """Sets random layers back, so that the same rows meet the same dropout again."""
    for seed, value in zip(seeds, values, strict=True):
        seed.assign(value)


def _tracked_loss(model, batches, x, y, y_pred, sample_weight, training):
    """The loss, which the model's history gets to know as Keras has it."""
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
