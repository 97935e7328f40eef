"""Warnings of a batch that teaches a model little or nothing, given once for each loss.

A compiled step cannot warn, so losses check when they are called eagerly, and models
before their first step.
"""

import warnings

import numpy as np


def check_first_batch(loss, y_true, shape):
    """Warns of the first batch that this loss gets, if its `first_batch_warning` says so.

    Args:
        loss: any loss; those of other packages have no warnings.
        y_true: array or tensor that holds values, or None.
        shape: that of the predictions, `(B, D)` or `(B, n, D)`; None where unknown.
    """
    if not is_awaited(loss):
        return
    loss._first_batch_was_checked = True
    if y_true is None:
        y_true = np.zeros([shape[0] or 0, 0])
    elif isinstance(y_true, dict):
        y_true = {name: np.asarray(y) for name, y in y_true.items()}
    else:
        y_true = np.asarray(y_true)
    if warning := loss.first_batch_warning(y_true, tuple(shape)):
        warnings.warn(f"{type(loss).__name__}: {warning}", stacklevel=3)


def is_awaited(loss):
    """Whether a loss has not had its first batch yet."""
    return not getattr(loss, "_first_batch_was_checked", True)


def ids_warning(ids, positives):
    """Returns a warning of ids all equal; if positives matter, also of ids all distinct."""
    ids = ids.reshape(-1)
    num_ids = len(np.unique(ids))
    if num_ids == len(ids) and positives and num_ids:
        return (
            f"no two rows of a batch of {len(ids)} have the same id, so that there is no "
            "positive pair to learn from. Expected batches with several rows of a class, "
            "as tfembloss.data.balanced_batches(x, y, classes_per_batch=...) makes them."
        )
    if num_ids == 1 and len(ids) > 1:
        return (
            f"all rows of a batch of {len(ids)} have the same id, so that there is no "
            "negative to learn from. Expected batches of several classes: shuffle the "
            "rows, or make batches by tfembloss.data.balanced_batches(x, y, "
            "classes_per_batch=...)."
        )
    return None


def labels_warning(labels):
    """Returns a warning of rows that share no label, or of which all pairs do.

    Args:
        labels: booleans `[B, C]`.
    """
    labels = labels.astype("float32")
    share = np.delete(labels @ labels.T > 0, np.arange(len(labels)) * (len(labels) + 1))
    if not share.size or (share.any() and not share.all()):
        return None
    if share.all():
        return (
            f"all rows of a batch of {len(labels)} share a label, so that there is no "
            "negative to learn from. Expected batches of rows with different labels: "
            "shuffle the rows, or leave out labels that nearly all rows have."
        )
    return (
        f"no two rows of a batch of {len(labels)} share a label, so that there is no "
        "positive pair to learn from. Expected larger batches, or broader labels."
    )


def in_batch_warning(ids, shape):
    """Returns a warning of a batch in which no row has negatives, or None.

    Args:
        ids: array of the ids of rows `[B]`, or of their columns `[B, n]`; None if equal
            ones are not excluded.
        shape: that of the predictions, `(B, n, D)`.
    """
    if len(shape) == 3 and shape[1] is not None and shape[1] > 2:
        return None  # with negatives of its own
    if shape[0] == 1:
        return (
            "a batch has one row, so that there is no negative to learn from. Expected a "
            "larger batch, or columns with negatives."
        )
    if ids is None:
        return None
    columns = ids.T if ids.ndim == 2 else [ids]
    found = (ids_warning(column, positives=False) for column in columns)
    return next(filter(None, found), None)


def range_warning(y_true, low, high, meaning, advice):
    """Returns a warning of targets outside of the range of the loss, or None."""
    if not y_true.size or (y_true.min() >= low - 1e-6 and y_true.max() <= high + 1e-6):
        return None
    return (
        f"expected {meaning}, from {low} to {high}. Received: {y_true.min():g} to "
        f"{y_true.max():g} in a batch of {len(y_true)} rows. {advice}"
    )


def order_warning(y_true):
    """Returns a warning of scores without an order: all equal, or only one."""
    if not y_true.size or (y_true != y_true.flat[0]).any():
        return None
    return (
        f"all scores of a batch of {len(y_true)} are equal, so that there is no order to "
        "learn from. Expected batches with different scores: shuffle the rows, or make "
        "batches larger."
    )
