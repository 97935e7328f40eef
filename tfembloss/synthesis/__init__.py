"""Training data from texts: hard negatives, triplets with margins, deduplication.

`mine_hard_negatives` finds negatives for pairs, `synthesize` makes triplets from queries
and a corpus without any pairs, `find_duplicates` finds what to remove from a corpus.
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
