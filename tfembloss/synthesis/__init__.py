"""Training data from texts: hard negatives, triplets with margins, deduplication.

| what you have | take | to train with |
|---|---|---|
| pairs and a corpus | `mine_hard_negatives` | an in-batch loss, a cross-encoder |
| queries, a corpus, a cross-encoder | `synthesize` | `tfembloss.losses.MarginMSELoss` |
| what `synthesize` has made | `load_synthesized` | the same |
| a corpus that may repeat itself | `find_duplicates` | what is left of it |
"""

from tfembloss.synthesis.duplicates import Duplicates, find_duplicates
from tfembloss.synthesis.hard_negatives import HardNegatives, mine_hard_negatives
from tfembloss.synthesis.triplets import load_synthesized, synthesize

__all__ = [
    "Duplicates",
    "HardNegatives",
    "find_duplicates",
    "load_synthesized",
    "mine_hard_negatives",
    "synthesize",
]
