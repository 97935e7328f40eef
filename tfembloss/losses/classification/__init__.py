"""Losses on class scores `[B, C]` with labels `[B]`."""
