"""Callbacks for `fit`: `ResumableCheckpoint` goes on where a stopped training was.

What reports retrieval metrics is `tfembloss.evaluation.RetrievalEvaluator`.
"""

from tfembloss.callbacks.resumable import ResumableCheckpoint

__all__ = ["ResumableCheckpoint"]
