"""Models that train encoders: they map columns of inputs to columns of embeddings.

| model | what it trains |
|---|---|
| `EmbeddingModel` | one encoder of all columns, with any loss on embeddings |
| `EmbeddingClassifier` | an encoder and a head of `tfembloss.layers`, with its loss |
| `MomentumModel` | an encoder on two views, by its moving average: MoCo, BYOL, SimSiam |
| `DualEncoder` | two towers, as of images and texts, with their loss |
| `ContrastiveTensionModel` | an encoder and its `twin`, on texts alone |
| `DenoisingAutoEncoder` | an encoder and a `SentenceDecoder`, on texts alone |
| `MultiTaskModel` | one encoder in several of the above at once, each with its data |
| `CrossEncoder` | an encoder of pairs, read together, to one score; with a loss of Keras |

`tfembloss.losses` says which loss for which data.
"""

from tfembloss.layers import SentenceDecoder
from tfembloss.models.classifier import EmbeddingClassifier
from tfembloss.models.contrastive_tension import ContrastiveTensionModel, twin
from tfembloss.models.cross_encoder import CrossEncoder
from tfembloss.models.denoising_autoencoder import DenoisingAutoEncoder
from tfembloss.models.dual_encoder import DualEncoder
from tfembloss.models.embedding_model import EmbeddingModel
from tfembloss.models.head_optimizer import HeadOptimizer
from tfembloss.models.momentum import MomentumModel
from tfembloss.models.multi_task import MultiTaskModel

__all__ = [
    "ContrastiveTensionModel",
    "CrossEncoder",
    "DenoisingAutoEncoder",
    "DualEncoder",
    "EmbeddingClassifier",
    "EmbeddingModel",
    "HeadOptimizer",
    "MomentumModel",
    "MultiTaskModel",
    "SentenceDecoder",
    "twin",
]
