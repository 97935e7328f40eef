"""Layers with the variables of losses and encoders, which models own.

- Heads, for `tfembloss.EmbeddingClassifier`: `CosineHead` for labeled rows, `PairHead` for
  pairs with a relation, `MarginHead` for the learned boundaries of `MarginLoss`. Of the
  centers of a `CosineHead`: `RegularFaceRegularizer`, `CenterInvariantRegularizer`,
  `SparseCentersRegularizer`.
- `Mahalanobis`: a learned distance.
- `CrossBatchMemory`: more negatives than a batch has, for `tfembloss.EmbeddingModel`; and
  `TripletHistogram` for `DynamicSoftMarginLoss`.
- In an encoder of token ids: `PositionEmbedding` and `TokenPooling`.
- In the encoder of a pretrained checkpoint: `TransformerEmbeddings`, `TransformerBlock`,
  `RelativePositions` and `Pooling`; in DeBERTa's `RelativeEmbeddings` and
  `DisentangledBlock`; in a language model's `RotaryBlock` and `RMSNorm`.
- `SentenceDecoder`: the decoder of a `tfembloss.DenoisingAutoEncoder`.
"""

from tfembloss.layers.decoder import SentenceDecoder
from tfembloss.layers.disentangled import DisentangledBlock, RelativeEmbeddings
from tfembloss.layers.heads import CosineHead, MarginHead, PairHead
from tfembloss.layers.mahalanobis import Mahalanobis
from tfembloss.layers.memory import CrossBatchMemory, TripletHistogram
from tfembloss.layers.pooling import Pooling, PositionEmbedding, TokenPooling
from tfembloss.layers.regularizers import (
    CenterInvariantRegularizer,
    RegularFaceRegularizer,
    SparseCentersRegularizer,
)
from tfembloss.layers.rotary import RMSNorm, RotaryBlock
from tfembloss.layers.transformer import (
    RelativePositions,
    TransformerBlock,
    TransformerEmbeddings,
)

__all__ = [
    "CenterInvariantRegularizer",
    "CosineHead",
    "CrossBatchMemory",
    "DisentangledBlock",
    "Mahalanobis",
    "MarginHead",
    "PairHead",
    "Pooling",
    "PositionEmbedding",
    "RMSNorm",
    "RegularFaceRegularizer",
    "RelativeEmbeddings",
    "RelativePositions",
    "RotaryBlock",
    "SentenceDecoder",
    "SparseCentersRegularizer",
    "TokenPooling",
    "TransformerBlock",
    "TransformerEmbeddings",
    "TripletHistogram",
]
