"""Variables of which each replica has other rows, for what is too large for one."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss import replicas


class ShardedVariable(keras.Variable):
    """Rows `[N, ...]` in R parts `[ceil(N / R), ...]`, one for each replica.

    In a replica, the variable and its shape are those of its part. Elsewhere, `numpy`
    returns all rows, and `assign` takes them. So Keras saves all, and loads them on any
    number of replicas. With several workers, all must call these.

    To TensorFlow it is a mirrored variable whose copies happen to differ: it must only be
    written by `assign`, and by optimizers to which `keep_shards` was applied.

    Args:
        num_rows: N.
        shape: of a row.
        multiple: each part has a multiple of so many rows, which stay together.
        initializer, dtype, name: as in `keras.Variable`; the initializer is called for the
            rows of one part, and must not depend on their number.
    """

    def __init__(
        self, num_rows, shape, multiple=1, initializer="zeros", dtype=None, name=None
    ):
        self.num_parts = replicas.number_in_strategy()
        self.num_rows, self.multiple = num_rows, multiple
        rows_of_part = -(-num_rows // (self.num_parts * multiple)) * multiple
        super().__init__(
            keras.initializers.get(initializer),
            shape=(rows_of_part, *shape),
            dtype=dtype,
            autocast=False,
            name=name,
        )

    @property
    def shape_of_all(self):
        """The shape of all rows."""
        return (self.num_rows, *self.shape[1:])

    def numpy(self):
        """Returns all rows, an array."""
        return replicas.joined_parts(self)[: self.num_rows]

    def __array__(self, dtype=None, copy=None):
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def assign(self, value):
        """Assigns all rows, an array or a stored one."""
        if tuple(value.shape) != self.shape_of_all:
            raise ValueError(
                f"Expected all rows, of shape {self.shape_of_all}. Received: an array of "
                f"shape {tuple(value.shape)}."
            )
        # The last part has fewer rows.
        missing = self.num_parts * self.shape[0] - self.num_rows
        padding = [[0, missing], *[[0, 0]] * (self.ndim - 1)]
        replicas.assign_parts(self, np.pad(np.asarray(value), padding))
        return value

    def all_rows(self):
        """Returns all rows as a tensor, in a replica gathered, with gradient."""
        if self.num_parts == 1:
            return tf.convert_to_tensor(self.value)
        if replicas.count() > 1:
            return replicas.gather(self.value)[: self.num_rows]
        if tf.executing_eagerly():
            return tf.constant(self.numpy())
        if replicas.is_building():  # for shapes alone
            return tf.zeros(self.shape_of_all, self.dtype)
        raise ValueError(
            f"The rows of {self.path} are on several replicas: expected a call in a step "
            "of `fit` or `evaluate`, or eagerly. Received: one in a graph outside of them. "
            "A saved model can be loaded without a strategy."
        )


# Those that change each number by itself, so that those of a part change as in the whole.
_BY_NUMBER = tuple(
    getattr(keras.optimizers, name)
    for name in (
        *("SGD", "RMSprop", "Adam", "AdamW", "Nadam", "Adamax"),
        *("Adagrad", "Adadelta", "Ftrl", "Lion"),
    )
)


def keep_shards(optimizer):
    """Makes an optimizer one of sharded variables alone. Raises ValueError if it cannot.

    It then takes a replica's gradient for that of the replica's part: complete, of the rows
    of all replicas, so that there is nothing to reduce.
    """
    norms = ("clipnorm", "global_clipnorm")
    right = type(optimizer) in _BY_NUMBER and not any(getattr(optimizer, x) for x in norms)
    if not right or optimizer.use_ema or optimizer.gradient_accumulation_steps:
        names = ", ".join(one.__name__ for one in _BY_NUMBER)
        raise ValueError(
            "Variables with shard=True need an optimizer that changes each number by "
            f"itself: expected one of {names}, without clipping by norms, use_ema and "
            f"gradient_accumulation_steps. Received: {type(optimizer).__name__} of "
            f"{optimizer.get_config()}. Give the head one of its own, "
            "compile(..., head_optimizer=...)."
        )

    def sharded_like(variable, name=None, initializer="zeros"):
        made = ShardedVariable(
            variable.num_rows,
            variable.shape[1:],
            variable.multiple,
            initializer,
            variable.dtype,
            f"{variable.path.replace('/', '_')}_{name}",
        )
        made.trainable = False
        optimizer._track_variable(made)
        return made

    optimizer.add_variable_from_reference = sharded_like
    optimizer._all_reduce_sum_gradients = list
