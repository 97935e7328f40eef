"""Exchange of rows between the replicas of a tf.distribute strategy.

A loss compares this replica's rows with the rows of all replicas, so that the results are
those of one replica with the whole batch. Outside a strategy, with one replica, and while
Keras builds a model symbolically, every function here returns its input unchanged.

This is the only module that uses tf.distribute's collectives. Call them at the top level of
a computation: never under a condition on data, and never inside a function compiled by XLA,
which does not implement them.
"""

import numpy as np
import tensorflow as tf


def count():
    """Returns the number of replicas that train together; 1 outside a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def is_building():
    """Whether this is a graph under a strategy, but not of one of its replicas.

    Keras calls a stock model and its loss in this way to infer their shapes.
    """
    return not tf.executing_eagerly() and tf.distribute.in_cross_replica_context()


def gather(x):
    """Returns the rows of all replicas, in the order of the replicas, with gradient.

    The gradient of a row is summed over all replicas that used it, and returned to the
    replica that owns the row. Replicas may hold different numbers of rows.

    Args:
        x: tensor `[B, ...]`, this replica's rows.

    Returns:
        Tensor `[N, ...]`, N the number of rows of all replicas.
    """
    if count() == 1:
        return x
    context = tf.distribute.get_replica_context()
    start = first_row(x)

    @tf.custom_gradient
    def gathered(rows):
        def gradient(upstream):
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
            return summed[start : start + tf.shape(rows)[0]]

        # TensorFlow's own gradient of all_gather requires equal numbers of rows.
        keys = context.all_gather(tf.stop_gradient(rows), axis=0)
        return tf.ensure_shape(keys, [None, *rows.shape[1:]]), gradient

    return gathered(x)


def first_row(x):
    """Returns the position of this replica's first row among all rows, int32."""
    if count() == 1:
        return tf.constant(0)
    context = tf.distribute.get_replica_context()
    num_rows = context.all_gather(tf.shape(x)[:1], axis=0)  # [R]
    earlier = tf.range(count()) < context.replica_id_in_sync_group
    return tf.reduce_sum(tf.where(earlier, num_rows, 0))


def total(x):
    """Returns the sum of `x` over all replicas, without gradient."""
    x = tf.stop_gradient(x)
    if count() == 1:
        return x
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def logsumexp(x):
    """Returns the log of the sum of exp(x) over all replicas, with gradient."""
    return x if count() == 1 else tf.reduce_logsumexp(gather(x[None]), axis=0)


def share(size):
    """Returns this replica's size, such as a number of rows, over the mean of all sizes.

    As a factor, it turns the mean of the replicas' means into the mean over all rows.
    """
    return tf.math.divide_no_nan(size * count(), total(size))


def alike(x):
    """Returns the mean of `x` over all replicas, with the gradient of this replica's x."""
    return x if count() == 1 else x + tf.stop_gradient(total(x) / count() - x)


def update(variables, others, function):
    """Assigns `function(variable, other)` to each variable, in each replica from its own.

    Nothing is exchanged, so the values must be the same in all replicas.

    Args:
        variables: list of Keras variables.
        others: list of as many Keras variables of the same shapes.
        function: of two tensors to a tensor.
    """

    def assign(variable, other):
        variable.assign(function(variable, tf.cast(other, variable.dtype)))

    def in_each(strategy):
        for variable, other in zip(variables, others, strict=True):
            strategy.extended.update(
                variable.value, assign, args=(other.value,), group=False
            )

    # As Keras's optimizers do: whatever the variables' aggregation, of which a replica
    # could not assign some.
    tf.__internal__.distribute.interim.maybe_merge_call(
        in_each, tf.distribute.get_strategy()
    )


# Variables of which each replica holds another part. To TensorFlow they are mirrored ones:
# nothing but these functions may write them, except an optimizer that does not reduce their
# gradients.


def number_in_strategy():
    """Returns the number of replicas of the strategy in whose scope this is called."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def index():
    """Returns the position of this replica among all of them, int32."""
    if count() == 1:
        return tf.constant(0)
    return tf.convert_to_tensor(
        tf.distribute.get_replica_context().replica_id_in_sync_group
    )


def assign_parts(variable, rows):
    """Assigns the parts of an array to the replicas' copies of a variable.

    Args:
        variable: Keras variable `[n, ...]`.
        rows: array `[R * n, ...]`, the parts in the order of the R replicas.
    """
    strategy, size = _strategy_of(variable), variable.shape[0]
    if strategy.num_replicas_in_sync == 1:
        variable.value.assign(rows)
        return

    def part(context):
        start = size * context.replica_id_in_sync_group
        return tf.constant(rows[start : start + size], variable.dtype)

    parts = strategy.experimental_distribute_values_from_function(part)
    strategy.extended.update(variable.value, lambda copy, x: copy.assign(x), args=(parts,))


def _strategy_of(variable):
    strategy = getattr(variable.value, "distribute_strategy", None)
    return strategy or tf.distribute.get_strategy()


def joined_parts(variable):
    """Returns what `assign_parts` assigned, an array; all workers must call this."""
    strategy = _strategy_of(variable)
    if strategy.num_replicas_in_sync == 1:
        return variable.value.numpy()
    if not has_several_workers(strategy):
        parts = strategy.experimental_local_results(variable.value)
        return np.concatenate([part.numpy() for part in parts])

    def read():
        return strategy.run(lambda: tf.identity(variable.value))

    read = tf.function(read, autograph=False)
    return strategy.gather(read(), axis=0).numpy()


def first_local_spec(dataset):
    """Returns the element spec of the first local replica in a distributed dataset."""

    def first(spec):
        return spec._value_specs[0] if hasattr(spec, "_value_specs") else spec

    return tf.nest.map_structure(first, dataset.element_spec)


def worker_logs(logs):
    """Returns a training step's logs in the shape in which Keras reduces them.

    Keras (3.15) reduces the logs of several workers along axis 0, which a scalar does not
    have; with one worker the logs stay scalars.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    if not strategy.extended._in_multi_worker_mode():
        return logs
    return tf.nest.map_structure(lambda value: tf.reshape(value, [1]), logs)


def has_several_workers(strategy):
    """Whether a strategy has replicas in several processes."""
    return getattr(strategy.extended, "_in_multi_worker_mode", bool)()
