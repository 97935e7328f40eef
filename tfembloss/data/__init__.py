"""Datasets in the form that models and losses expect.

| what you have | take |
|---|---|
| files: CSV, TSV, JSON lines, TFRecord | `read`; row by row, `read_rows` |
| columns in memory or datasets: queries, answers, ... | `columns` |
| arrays as Keras reads them | `from_arrays` |
| rows with a label each | `balanced_batches` |
| pairs in which texts repeat | `batches_without_duplicates` |
| several datasets of batches, to train on all of them | `mix` |
| texts alone, for `tfembloss.losses.ContrastiveTensionLoss` | \
`contrastive_tension_batches` |
| arrays of which a part is for validation | `split_rows` |
"""

from tfembloss.data.batches import (
    balanced_batches,
    batches_without_duplicates,
    contrastive_tension_batches,
)
from tfembloss.data.column_datasets import columns, from_arrays, split_rows
from tfembloss.data.files import read, read_rows
from tfembloss.data.mixing import mix

__all__ = [
    "balanced_batches",
    "batches_without_duplicates",
    "columns",
    "contrastive_tension_batches",
    "from_arrays",
    "mix",
    "read",
    "read_rows",
    "split_rows",
]
