"""Text preprocessing, vocabularies, and a small text encoder.

| step | take |
|---|---|
| learn a vocabulary from your texts, once | `learn_vocabulary` |
| texts to token ids, inside the model | `TextPreprocessor` |
| texts to the token ids of a pretrained checkpoint | `CheckpointTokenizer` |
| pairs of texts to token ids, for `tfembloss.CrossEncoder` | `TextPairPreprocessor` |
| the same of a pretrained checkpoint | `CheckpointPairTokenizer` |
| token ids to embeddings, trained from scratch on a CPU | `TextEncoder` |
| damaged texts, for `tfembloss.DenoisingAutoEncoder` | `DeleteWords` |

A vocabulary holds the `RESERVED` entries; two of them are `PADDING` and `UNKNOWN`.
"""

from tfembloss.text.checkpoint_pair_tokenizer import CheckpointPairTokenizer
from tfembloss.text.checkpoint_tokenizer import CheckpointTokenizer
from tfembloss.text.encoder import TextEncoder
from tfembloss.text.noise import DeleteWords
from tfembloss.text.preprocessing import TextPairPreprocessor, TextPreprocessor
from tfembloss.text.vocabulary import PADDING, RESERVED, UNKNOWN, learn_vocabulary

__all__ = [
    "PADDING",
    "RESERVED",
    "UNKNOWN",
    "CheckpointPairTokenizer",
    "CheckpointTokenizer",
    "DeleteWords",
    "TextEncoder",
    "TextPairPreprocessor",
    "TextPreprocessor",
    "learn_vocabulary",
]
