"""Callbacks for `fit`.

| to | take |
|---|---|
| resume at the next batch where a training was stopped | `ResumableCheckpoint` |
| train with hard negatives of the model as it is then | `HardNegativeMining` |
| report retrieval metrics | `tfembloss.evaluation.RetrievalEvaluator` |
"""

from tfembloss.callbacks.hard_negatives import HardNegativeMining
from tfembloss.callbacks.resumable import ResumableCheckpoint

__all__ = ["HardNegativeMining", "ResumableCheckpoint"]
