"""Training data from texts alone: hard negatives, triplets with margins, no duplicates.

`mine_hard_negatives` finds negatives for pairs, `synthesize` makes triplets of queries and
a corpus without any pairs, `find_duplicates` cleans a corpus.
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
