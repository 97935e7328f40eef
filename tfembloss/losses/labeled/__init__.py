"""Losses on rows with a class each: embeddings `[B, D]`, ids `[B]`."""
