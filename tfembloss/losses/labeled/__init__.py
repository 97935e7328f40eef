"""Losses on labeled rows: embeddings `[B, D]` with class ids `[B]`."""
