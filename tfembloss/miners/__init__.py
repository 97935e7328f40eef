"""Miners select the pairs or triplets of a batch that a loss uses.

A miner is an argument of a loss, `TripletMarginLoss(miner=BatchHardMiner())`, and selects
among the rows of all replicas. Called directly on embeddings and ids, it returns what it
selects:

>>> import tensorflow as tf
>>> embeddings = tf.constant([[0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
>>> BatchHardMiner()(embeddings, [0, 0, 1, 1])
SelectedPairs(positive=array([[0, 1], [1, 0], [2, 3], [3, 2]]),
              negative=array([[0, 2], [1, 2], [2, 1], [3, 1]]))

| miner | what it selects |
|---|---|
| `BatchHardMiner` | each anchor's farthest positive and nearest negative |
| `BatchEasyHardMiner` | one of each, by a strategy |
| `MultiSimilarityMiner` | pairs that are in the wrong order, up to a margin |
| `PairMarginMiner` | pairs on the wrong side of a margin |
| `HDCMiner` | the hardest fraction of the pairs |
| `UniformHistogramMiner` | pairs of all distances, equally often, at random |
| `TripletMarginMiner` | triplets by their gap: hard, semi-hard or easy |
| `AngularMiner` | triplets by the angle at the negative |
| `DistanceWeightedMiner` | a negative of each pair at random, any distance equally likely |

Without a miner a loss takes all; `TripletMarginMiner(type_of_triplets="semihard")` with
`tfembloss.losses.TripletMarginLoss` is a good first choice.

There are two kinds. A `PairMiner` selects positive and negative pairs; a triplet loss then
uses every triplet whose two pairs are selected. A `TripletMiner` selects triplets; a pair
loss then counts each pair once per triplet in which it occurs. Both kinds return masks of
static shape, so that they compile under XLA, and their selection has no gradient.

The options of a miner are saved with the loss. A miner has its own distance: smaller is
nearer, and every margin is a distance, which is 1 - cos for `"cosine"`. Random miners
depend only on `seed`, the ids of the batch and the positions of the rows: the same batch
gives the same selection, on any number of replicas.
"""

from tfembloss.miners.base import PairMiner, SelectedPairs, TripletMiner
from tfembloss.miners.pairs import (
    BatchEasyHardMiner,
    BatchHardMiner,
    HDCMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    UniformHistogramMiner,
)
from tfembloss.miners.triplets import (
    AngularMiner,
    DistanceWeightedMiner,
    TripletMarginMiner,
)

__all__ = [
    "AngularMiner",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "HDCMiner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "PairMiner",
    "SelectedPairs",
    "TripletMarginMiner",
    "TripletMiner",
    "UniformHistogramMiner",
]
