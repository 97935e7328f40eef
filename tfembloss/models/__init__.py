"""Models that train encoders: columns of inputs in, columns of embeddings out."""

from tfembloss.models.classifier import EmbeddingClassifier, HeadOptimizer
from tfembloss.models.dual_encoder import DualEncoder
from tfembloss.models.embedding_model import EmbeddingModel

__all__ = ["DualEncoder", "EmbeddingClassifier", "EmbeddingModel", "HeadOptimizer"]
