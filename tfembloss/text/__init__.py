"""Text preprocessing, vocabularies, and a small text encoder."""

from tfembloss.text.encoder import TextEncoder
from tfembloss.text.noise import DeleteWords
from tfembloss.text.preprocessing import TextPairPreprocessor, TextPreprocessor
from tfembloss.text.vocabulary import PADDING, RESERVED, UNKNOWN, learn_vocabulary

__all__ = [
    "PADDING",
    "RESERVED",
    "UNKNOWN",
    "DeleteWords",
    "TextEncoder",
    "TextPairPreprocessor",
    "TextPreprocessor",
    "learn_vocabulary",
]
