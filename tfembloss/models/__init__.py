"""Models that train encoders: columns of inputs in, columns of embeddings out.

| model | trains | with |
|---|---|---|
| `EmbeddingModel` | one encoder of all columns | any loss on embeddings |
| `EmbeddingClassifier` | an encoder and a head | a head of `tfembloss.layers`, its loss |
| `DualEncoder` | two towers | `tfembloss.losses.CLIPLoss`, `tfembloss.losses.SigLIPLoss` |
| `ContrastiveTensionModel` | an encoder and its `twin`, on texts alone | \
`tfembloss.losses.ContrastiveTensionLossInBatchNegatives` |
| `DenoisingAutoEncoder` | an encoder and a decoder, on texts alone | \
`tfembloss.losses.DenoisingAutoEncoderLoss` |
| `CrossEncoder` | an encoder of pairs, read together, to one score | a loss of Keras |

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

__all__ = [
    "ContrastiveTensionModel",
    "CrossEncoder",
    "DenoisingAutoEncoder",
    "DualEncoder",
    "EmbeddingClassifier",
    "EmbeddingModel",
    "HeadOptimizer",
    "SentenceDecoder",
    "twin",
]
