"""Time and memory of the losses on ids, side by side with the PyTorch libraries.

    python label_losses.py [--out FILE] [--only REGEX] [--sizes B ...] [--peer-python PATH]

A cell is one loss on a batch of B embeddings [B, 256], 4 rows per class or 8 classes: its
value and its gradient with respect to the embeddings. The peers are sentence-transformers
(`Batch...`) and pytorch-metric-learning (the others) on torch.

The table also has how the time of ours grows from B/2 to B, and ours divided by the time
of the matrix of euclidean distances alone. See README.md for the rest.
"""

import harness
import numpy as np
from harness import DIM, Layout, Loss
from peers import metric_learning, sentence_transformers

FLOOR = "euclidean matrix"


def floor(t):
    """The matrix itself as the "loss": its gradient then has an upstream of ones."""
    return lambda ids, x: t.distances.euclidean.pairwise(x, x)  # [B, B]


def learned_margin(t):
    head, loss = t.layers.MarginHead(), t.losses.MarginLoss(num_betas=1)
    return lambda ids, x: loss(ids, head(x))


# What makes ours from the package tfembloss, and what makes the peer's.
MAKERS = {
    FLOOR: (floor, None),
    "BatchAllTripletLoss": (
        lambda t: t.losses.BatchAllTripletLoss(),
        sentence_transformers("BatchAllTripletLoss"),
    ),
    "BatchHardTripletLoss": (
        lambda t: t.losses.BatchHardTripletLoss(),
        sentence_transformers("BatchHardTripletLoss"),
    ),
    "BatchHardSoftMarginTripletLoss": (
        lambda t: t.losses.BatchHardSoftMarginTripletLoss(),
        sentence_transformers("BatchHardSoftMarginTripletLoss"),
    ),
    "BatchSemiHardTripletLoss": (
        lambda t: t.losses.BatchSemiHardTripletLoss(),
        sentence_transformers("BatchSemiHardTripletLoss"),
    ),
    "TripletMarginLoss": (
        lambda t: t.losses.TripletMarginLoss(),
        metric_learning("TripletMarginLoss"),
    ),
    "TripletMarginLoss, semihard": (
        lambda t: t.losses.TripletMarginLoss(
            miner=t.miners.TripletMarginMiner(type_of_triplets="semihard")
        ),
        metric_learning(
            "TripletMarginLoss", "TripletMarginMiner", {"type_of_triplets": "semihard"}
        ),
    ),
    "TripletMarginLoss, batch hard": (
        lambda t: t.losses.TripletMarginLoss(miner=t.miners.BatchHardMiner()),
        metric_learning("TripletMarginLoss", "BatchHardMiner"),
    ),
    "TripletMarginLoss, swap": (
        lambda t: t.losses.TripletMarginLoss(swap=True),
        metric_learning("TripletMarginLoss", swap=True),
    ),
    "TripletMarginLoss, smooth": (
        lambda t: t.losses.TripletMarginLoss(smooth=True),
        metric_learning("TripletMarginLoss", smooth_loss=True),
    ),
    "NTXentLoss": (lambda t: t.losses.NTXentLoss(), metric_learning("NTXentLoss")),
    "SupConLoss": (lambda t: t.losses.SupConLoss(), metric_learning("SupConLoss")),
    "MultiSimilarityLoss": (
        lambda t: t.losses.MultiSimilarityLoss(),
        metric_learning("MultiSimilarityLoss"),
    ),
    "MultiSimilarityLoss, mined": (
        lambda t: t.losses.MultiSimilarityLoss(miner=t.miners.MultiSimilarityMiner()),
        metric_learning("MultiSimilarityLoss", "MultiSimilarityMiner"),
    ),
    "CircleLoss": (lambda t: t.losses.CircleLoss(), metric_learning("CircleLoss")),
    "LiftedStructureLoss": (
        lambda t: t.losses.LiftedStructureLoss(),
        metric_learning("LiftedStructureLoss"),
    ),
    "GeneralizedLiftedStructureLoss": (
        lambda t: t.losses.GeneralizedLiftedStructureLoss(),
        metric_learning("GeneralizedLiftedStructureLoss"),
    ),
    "NPairsLoss": (lambda t: t.losses.NPairsLoss(), metric_learning("NPairsLoss")),
    "MarginLoss": (lambda t: t.losses.MarginLoss(), metric_learning("MarginLoss")),
    "MarginLoss, learned": (
        learned_margin,
        metric_learning("MarginLoss", learn_beta=True),
    ),
    "LabelContrastiveLoss": (
        lambda t: t.losses.LabelContrastiveLoss(),
        metric_learning("ContrastiveLoss"),
    ),
    "SignalToNoiseRatioContrastiveLoss": (
        lambda t: t.losses.SignalToNoiseRatioContrastiveLoss(),
        metric_learning("SignalToNoiseRatioContrastiveLoss"),
    ),
    "ThresholdConsistentMarginLoss": (
        lambda t: t.losses.ThresholdConsistentMarginLoss(),
        metric_learning("ThresholdConsistentMarginLoss"),
    ),
    "IntraPairVarianceLoss": (
        lambda t: t.losses.IntraPairVarianceLoss(),
        metric_learning("IntraPairVarianceLoss"),
    ),
    "NCALoss": (lambda t: t.losses.NCALoss(), metric_learning("NCALoss")),
    "TupletMarginLoss": (
        lambda t: t.losses.TupletMarginLoss(),
        metric_learning("TupletMarginLoss"),
    ),
    "RankedListLoss": (
        lambda t: t.losses.RankedListLoss(),
        metric_learning("RankedListLoss", margin=0.4, Tn=10),
    ),
    "FastAPLoss": (lambda t: t.losses.FastAPLoss(), metric_learning("FastAPLoss")),
    "SmoothAPLoss": (lambda t: t.losses.SmoothAPLoss(), metric_learning("SmoothAPLoss")),
    "PNPLoss": (lambda t: t.losses.PNPLoss(), metric_learning("PNPLoss")),
    "HistogramLoss": (
        lambda t: t.losses.HistogramLoss(),
        metric_learning("HistogramLoss", n_bins=100),
    ),
    "DynamicSoftMarginLoss": (
        lambda t: t.losses.DynamicSoftMarginLoss(),
        metric_learning("DynamicSoftMarginLoss"),
    ),
    "QuadrupletLoss": (lambda t: t.losses.QuadrupletLoss(), None),
    "RecallAtKSurrogateLoss": (lambda t: t.losses.RecallAtKSurrogateLoss(), None),
    "DecoupledContrastiveLoss": (lambda t: t.losses.DecoupledContrastiveLoss(), None),
}
FEW_CLASSES = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "TripletMarginLoss",
    "TripletMarginLoss, semihard",
]
LOSSES = {
    name: Loss(*makers, ["K=4", "8 classes"] if name in FEW_CLASSES else ["K=4"])
    for name, makers in MAKERS.items()
}


def batch(num_rows, num_classes):
    """Ids and embeddings, some rows near their class's centre and some far.

    Two thirds of the triplets are within a margin of 5, and a tenth within one of 0.05
    on directions.
    """
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.arange(num_rows) % num_classes)  # [B]
    centres = 0.5 * rng.normal(size=[num_classes, DIM])
    noise = rng.uniform(0.5, 1.5, [num_rows, 1]) * rng.normal(size=[num_rows, DIM])
    return ids, (centres[ids] + noise).astype("float32")


LAYOUTS = {
    "K=4": Layout([128, 512, 2048, 4096], lambda rows: batch(rows, rows // 4)),
    "8 classes": Layout([128, 512, 1024, 2048, 4096], lambda rows: batch(rows, 8)),
}
COLUMNS = {
    "ours, B/2 to B": lambda cell: cell._replace(rows=cell.rows // 2),
    f"ours / {FLOOR}": lambda cell: cell._replace(loss=FLOOR),
}

if __name__ == "__main__":
    harness.main(__doc__, LOSSES, LAYOUTS, COLUMNS)
