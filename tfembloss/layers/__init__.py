"""Layers with the variables of losses and encoders, which models own."""

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
