"""Layers with the variables that losses and encoders need; models own them."""

from tfembloss.layers.decoder import SentenceDecoder
from tfembloss.layers.heads import CosineHead, PairHead
from tfembloss.layers.memory import CrossBatchMemory
from tfembloss.layers.pooling import PositionEmbedding, TokenPooling

__all__ = [
    "CosineHead",
    "CrossBatchMemory",
    "PairHead",
    "PositionEmbedding",
    "SentenceDecoder",
    "TokenPooling",
]
