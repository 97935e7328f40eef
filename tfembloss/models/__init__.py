"""Models that train encoders: columns of inputs in, columns of embeddings out."""

from tfembloss.models.embedding_model import EmbeddingModel

__all__ = ["EmbeddingModel"]
