"""Callbacks for `fit`."""

from tfembloss.callbacks.resumable import ResumableCheckpoint

__all__ = ["ResumableCheckpoint"]
