"""How well the clusters of embeddings agree with labels."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances, search
from tfembloss.checks import as_list, integer, one_of
from tfembloss.evaluation.inputs import labels_of

CLUSTER_METRICS = ("nmi", "ami")
_STEPS = 100  # of k-means at most; it usually ends after 10 to 30


def clustering_metrics(
    embeddings, ids, metrics=CLUSTER_METRICS, distance="cosine", seed=0, verbose=0
):
    r"""Clusters embeddings by k-means, and computes how well the clusters match labels.

    There are as many clusters as labels. With the mutual information I of clusters U and
    labels V, their entropies H, and the mean over all clusters of the same sizes E:

    $$nmi = \frac{I(U, V)}{(H(U) + H(V)) / 2} \qquad
      ami = \frac{I(U, V) - E[I(U, V)]}{(H(U) + H(V)) / 2 - E[I(U, V)]}$$

    Both are 1 for the same clusters. By chance `ami` is 0 on average, while `nmi` is above
    0, and the more clusters the higher. If all rows have one label, the only cluster is
    that label, and both are 1.

    Args:
        embeddings: array `[N, D]`.
        ids: labels `[N]` or `[N, 1]`, integers or strings.
        metrics: names, of `"nmi"` and `"ami"`.
        distance: a distance of `tfembloss.distances`. k-means always finds means by
            squared Euclidean distance: of the embeddings at length 1 for `"cosine"` and
            `"normalized_euclidean"`, as they are for others.
        seed: of the first means, which are drawn far from one another (k-means++).
        verbose: 1 for a progress bar over the first means, which take longest if there are
            thousands of labels.

    Returns:
        Dict of name to float.

    Raises:
        ValueError: embeddings and ids differ in length, an embedding is not finite, a label
            is missing, or a metric is unknown.

    Example:

    >>> points = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> clustering_metrics(points, ["a", "a", "b", "b"])
    {'nmi': 1.0, 'ami': 1.0}

    Reference:
        Vinh et al., "Information Theoretic Measures for Clusterings Comparison", 2010,
        https://jmlr.org/papers/v11/vinh10a.html

    Relations:
        Equal to scikit-learn's normalized_mutual_info_score and
        adjusted_mutual_info_score, as pytorch-metric-learning's AccuracyCalculator reports
        them, if k-means finds the same clusters.
    """
    metrics = [metrics] if isinstance(metrics, str) else as_list(metrics, "metrics")
    metrics = [one_of("metrics", metric, CLUSTER_METRICS) for metric in metrics]
    rows = np.asarray(search.as_embeddings(embeddings, "embeddings"), "float32")
    search.check_finite(rows, "embeddings")
    labels, classes = labels_of(ids, rows.shape)
    rows = distances.get(distance).prepare(tf.constant(rows)).numpy()
    clusters = k_means(rows, len(labels), seed, verbose)
    found = mutual_information(clusters, classes)
    return {metric: found[metric] for metric in metrics}


def k_means(rows, num_clusters, seed=0, verbose=0):
    """Returns each row's cluster `[N]`, of rows `[N, D]`; at most N clusters."""
    integer("num_clusters", num_clusters, 1, len(rows))
    means, clusters = _first_means(rows, num_clusters, seed, verbose), None
    for _ in range(_STEPS):
        before = clusters
        distance, clusters = search.top_k(rows, means, 1, "squared_euclidean")
        clusters = clusters[:, 0]
        if np.array_equal(clusters, before):
            break
        sizes = np.bincount(clusters, minlength=num_clusters)
        sums = tf.math.unsorted_segment_sum(rows, clusters, num_clusters).numpy()
        means = sums / np.maximum(sizes, 1)[:, None]
        (empty,) = np.nonzero(sizes == 0)
        # An empty cluster takes the row that is farthest from its mean.
        means[empty] = rows[np.argsort(-distance[:, 0], kind="stable")[: len(empty)]]
    return clusters


def _first_means(rows, num_clusters, seed, verbose):
    """Rows `[num_clusters, D]`, drawn by their distance from those before (k-means++)."""
    rng = np.random.default_rng(seed)
    squares = np.einsum("nd,nd->n", rows, rows)
    chosen = [rng.integers(len(rows))]
    nearest = np.full(len(rows), np.inf)
    progress = keras.utils.Progbar(num_clusters, verbose=verbose)
    progress.add(1)
    while len(chosen) < num_clusters:
        last = chosen[-1]
        new = squares - 2 * (rows @ rows[last]) + squares[last]
        nearest = np.minimum(nearest, np.maximum(new, 0))
        nearest[last] = 0
        upper = np.cumsum(nearest, dtype="float64")
        # Where all that is left equals one of those chosen, any row will do.
        place = np.searchsorted(upper, rng.uniform(0, upper[-1]), side="right")
        chosen.append(min(place, len(rows) - 1))
        progress.add(1)
    return rows[chosen]


def mutual_information(clusters, classes):
    """Returns nmi and ami of two partitions `[N]`, by name."""
    clusters, cluster_sizes = _numbered(clusters)
    classes, class_sizes = _numbered(classes)
    num_rows = len(classes)
    # Only cells that have rows: of thousands of labels there are millions of cells.
    cells, both = np.unique(clusters * len(class_sizes) + classes, return_counts=True)
    if len(cells) == len(cluster_sizes) == len(class_sizes):  # the same, by other names
        return {"nmi": 1.0, "ami": 1.0}
    if len(cluster_sizes) == 1 or len(class_sizes) == 1:
        return {"nmi": 0.0, "ami": 0.0}
    cluster, label = np.divmod(cells, len(class_sizes))
    by_chance = cluster_sizes[cluster] * class_sizes[label] / num_rows
    shared = np.sum(both * np.log(both / by_chance)) / num_rows
    mean = (_entropy(cluster_sizes) + _entropy(class_sizes)) / 2
    chance = _by_chance(cluster_sizes, class_sizes)
    ami = (shared - chance) / (mean - chance)
    return {"nmi": float(shared / mean), "ami": float(ami)}


def _numbered(partition):
    _, numbers, sizes = np.unique(partition, return_inverse=True, return_counts=True)
    return numbers, sizes


def _entropy(sizes):
    shares = sizes / sizes.sum()
    return float(-np.sum(shares * np.log(shares)))


def _by_chance(first, second):
    """The mean mutual information of all partitions of these sizes."""
    num_rows = first.sum()
    log_factorial = np.append(0, np.cumsum(np.log(np.arange(1, num_rows + 1))))
    total = 0.0
    # Equal sizes have equal terms, and many labels have few sizes.
    counted = [np.transpose(np.unique(x, return_counts=True)) for x in (first, second)]
    for (a, times_a), (b, times_b) in itertools.product(*counted):
        both = np.arange(max(1, a + b - num_rows), min(a, b) + 1)
        log_chance = (
            log_factorial[a]
            + log_factorial[b]
            + log_factorial[num_rows - a]
            + log_factorial[num_rows - b]
            - log_factorial[num_rows]
            - log_factorial[both]
            - log_factorial[a - both]
            - log_factorial[b - both]
            - log_factorial[num_rows - a - b + both]
        )
        terms = both / num_rows * np.log(num_rows * both / (a * b)) * np.exp(log_chance)
        total += times_a * times_b * float(terms.sum())
    return total
