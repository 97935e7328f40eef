"""Datasets in the form that models and losses expect."""

from tfembloss.data.batches import (
    balanced_batches,
    batches_without_duplicates,
    contrastive_tension_batches,
)
from tfembloss.data.columns import columns, from_arrays, split_rows
from tfembloss.data.files import read, read_rows

__all__ = [
    "balanced_batches",
    "batches_without_duplicates",
    "columns",
    "contrastive_tension_batches",
    "from_arrays",
    "read",
    "read_rows",
    "split_rows",
]
