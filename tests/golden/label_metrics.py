"""What pytorch-metric-learning's AccuracyCalculator reports of rows with labels.

    PYTHON golden/label_metrics.py OUT.npz    # pytorch-metric-learning 2.9, scikit-learn

Of all rows, averaged over classes, and of each class; the clusters are drawn at random, as
those of k-means depend on where it begins.
"""

import sys

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

NAMES = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "NMI",
    "AMI",
)


def main(out):
    rng, arrays = np.random.default_rng(0), {}
    for case, (num, num_classes, noise) in enumerate([(60, 4, 1.0), (90, 20, 0.3)]):
        labels = rng.choice(num_classes, num, p=rng.dirichlet(np.full(num_classes, 2.0)))
        centers = rng.normal(size=[num_classes, 5])
        rows = (centers[labels] + noise * rng.normal(size=[num, 5])).astype("float32")
        clusters = np.where(rng.random(num) < 0.6, labels, rng.integers(5, size=num))
        found = {"embeddings": rows, "labels": labels, "clusters": clusters}
        for how in ({}, {"avg_of_avgs": True}, {"return_per_class": True}):
            calculator = AccuracyCalculator(
                include=NAMES,
                knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
                kmeans_func=lambda *_, clusters=clusters: torch.from_numpy(clusters),
                **how,
            )
            x, y = torch.from_numpy(rows), torch.from_numpy(labels)
            values = calculator.get_accuracy(x, y)
            prefix = next(iter(how), "rows")
            found |= {f"{prefix}/{name}": np.array(v) for name, v in values.items()}
        arrays |= {f"case{case}/{key}": value for key, value in found.items()}
    np.savez(out, **arrays)


main(sys.argv[1])
