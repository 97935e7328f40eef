"""Models that train encoders: they map columns of inputs to columns of embeddings."""

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
