"""Which pairs of rows count: boolean masks `[B, N]`."""

import tensorflow as tf


def equal_ids(ids, key_ids):
    """Pairs with equal ids `[B, N]`, compared in the ids' own dtype.

    Args:
        ids: ids of this replica's rows `[B]`, as `losses.base.check_ids` returns them.
        key_ids: ids of all rows `[N]`.
    """
    return ids[:, None] == key_ids[None, :]


def own_rows(rows, num_keys):
    """Pairs of a row with itself among all rows, `[B, N]`.

    Args:
        rows: position of each row among the keys `[B]`.
        num_keys: number of keys N.
    """
    return rows[:, None] == tf.range(num_keys)[None, :]
