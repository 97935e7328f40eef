"""Metrics of pairs, from their similarity: correlation, and classes by a threshold."""

import numpy as np

from tfembloss.checks import fraction, shown


def similarity_metrics(similarities, scores):
    r"""Computes the correlation of pairs' similarities with their true scores.

    $$\mathrm{pearson} = \frac{\operatorname{cov}(x, y)}{\sigma_x \sigma_y}$$

    and `spearman`, the same of their ranks; equal numbers have the mean of their ranks.

    Args:
        similarities: numbers `[N]`, N >= 2; the larger, the more similar.
        scores: the true scores `[N]`, of any range.

    Returns:
        Dict of `pearson` and `spearman`, floats from -1 to 1; NaN if all similarities are
        equal, as of a collapsed encoder.

    Raises:
        ValueError: shapes differ, a number is not finite, or all scores are equal.

    Example:

    >>> similarity_metrics([0.1, 0.4, 0.9], [0, 1, 5])
    {'pearson': 0.981..., 'spearman': 1.0}

    Relations:
        Equal to sentence-transformers' EmbeddingSimilarityEvaluator.
    """
    check_scores(scores)
    x, y = _numbers(similarities, scores, "scores")
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(_ranks(x), _ranks(y)),
    }


def pair_classification_metrics(similarities, labels):
    r"""Computes how well a threshold on the similarity tells pairs of two classes apart.

    A pair is positive if its similarity is at least the threshold. Of all thresholds,
    `accuracy` and `f1` are the best, with theirs as `accuracy_threshold` and
    `f1_threshold`; `precision`, `recall` and `mcc`, Matthews' correlation coefficient, are
    those at `f1_threshold`. `ap`, average precision, is of all thresholds:

    $$\mathrm{ap} = \sum_t (R_t - R_{t-1})\, P_t$$

    A threshold is in the middle between two similarities.

    Args:
        similarities: numbers `[N]`; the larger, the more similar.
        labels: `[N]`, 1 for positive pairs and 0 for negative ones.

    Returns:
        Dict of name to float.

    Raises:
        ValueError: shapes differ, a number is not finite, labels are others than 0 and 1,
            or of one class only.

    Example:

    >>> found = pair_classification_metrics([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 1])
    >>> found["accuracy"], found["accuracy_threshold"]
    (0.75, 0.55)
    >>> found["recall"], found["f1_threshold"]
    (1.0, 0.1)

    Relations:
        Equal to sentence-transformers' BinaryClassificationEvaluator.
    """
    cuts = Cuts(*_classes(similarities, labels))
    accuracy, f1 = cuts.accuracy().argmax(), cuts.f1().argmax()
    # The first threshold is above all similarities, where F1 is 0.
    return {
        "accuracy": float(cuts.accuracy()[accuracy]),
        "accuracy_threshold": cuts.threshold(accuracy),
        "f1": float(cuts.f1()[f1]),
        "f1_threshold": cuts.threshold(f1),
        "precision": float(cuts.precision()[f1]),
        "recall": float(cuts.recall()[f1]),
        "ap": cuts.average_precision(),
        "mcc": float(cuts.mcc()[f1]),
    }


def calibrate(similarities, labels, precision=None, recall=None, held_out=None):
    """Finds the threshold on the similarity that an application needs.

    Args:
        similarities: numbers `[N]`; the larger, the more similar.
        labels: `[N]`, 1 for positive pairs and 0 for negative ones.
        precision: the least precision, 0 to 1; of those thresholds the one of the highest
            recall is found.
        recall: the least recall, 0 to 1; of those thresholds the one of the highest
            precision is found. With neither, the threshold of the highest F1 is found.
        held_out: similarities and labels of other pairs, a tuple, on which the threshold is
            tried: the numbers of the pairs that it was chosen on are too good.

    Returns:
        Dict of `threshold`, `precision`, `recall` and `f1`; with `held_out` also of
        `held_out_precision`, `held_out_recall` and `held_out_f1`.

    Raises:
        ValueError: as in `pair_classification_metrics`; both precision and recall are
            given; or no threshold has that precision.

    Example:

    >>> similarities, labels = [0.9, 0.8, 0.7, 0.6, 0.1], [1, 1, 0, 1, 0]
    >>> found = calibrate(similarities, labels, precision=1.0)
    >>> found["threshold"], round(found["recall"], 3)
    (0.75, 0.667)
    """
    cuts = Cuts(*_classes(similarities, labels))
    if precision is not None and recall is not None:
        raise ValueError(
            "Expected precision or recall, as the other one follows. Received: "
            f"precision={precision}, recall={recall}"
        )
    if precision is not None:
        enough = cuts.precision() >= fraction("precision", precision)
        enough[0] = False  # no pair at all
        if not enough.any():
            raise ValueError(
                f"Expected a precision that a threshold has, at most "
                f"{cuts.precision()[1:].max():.4f} here. Received: precision={precision}"
            )
        at = np.where(enough, cuts.recall(), -1).argmax()
    elif recall is not None:
        enough = cuts.recall() >= fraction("recall", recall)
        at = np.where(enough, cuts.precision(), -1)[1:].argmax() + 1
    else:
        at = cuts.f1().argmax()
    threshold = cuts.threshold(at)
    found = {"threshold": threshold, **cuts.values(at)}
    if held_out is not None:
        similarities, labels = _classes(*held_out)
        chosen = similarities >= threshold
        hits = int((chosen & (labels == 1)).sum())
        others = _values(hits, int(chosen.sum()), int(labels.sum()))
        found |= {f"held_out_{name}": value for name, value in others.items()}
    return found


def average_precision(similarities, labels):
    """Returns the average precision of similarities `[N]` for labels 1 and 0 `[N]`."""
    return Cuts(*_classes(similarities, labels)).average_precision()


def precision_recall(similarities, labels):
    """Returns precision and recall of all thresholds, and the average precision."""
    cuts = Cuts(*_classes(similarities, labels))
    precision = cuts.precision()
    precision[0] = 1.0  # no pair at all
    return precision, cuts.recall(), cuts.average_precision()


class Cuts:
    """The results of all thresholds, from one above all similarities downwards.

    Args:
        x: similarities `[N]`, float64.
        y: `[N]`, 1 for positive pairs and 0 for negative ones.
        positives: number of positive pairs, if there are others than these N.
    """

    def __init__(self, x, y, positives=None):
        order = np.argsort(-x, kind="stable")
        self.x = x[order]
        # A threshold cannot part pairs of equal similarity.
        self.ends = np.append(np.flatnonzero(np.diff(self.x)), len(x) - 1)
        self.chosen = np.append(0, self.ends + 1)
        self.hits = np.append(0, np.cumsum(y[order])[self.ends])
        self.num = len(x)
        self.positives = self.hits[-1] if positives is None else positives

    def threshold(self, at):
        """Returns the threshold of a place, in the middle between two similarities."""
        if at == 0:
            return float(np.nextafter(self.x[0], np.inf))
        score = self.x[self.ends[at - 1]]
        if at == len(self.ends):
            return float(score)
        following = self.x[self.ends[at - 1] + 1]
        middle = (score + following) / 2
        return float(score if middle == following else middle)

    def accuracy(self):
        """Returns the share of pairs that are of the right class."""
        negatives = self.num - self.positives - (self.chosen - self.hits)
        return (self.hits + negatives) / self.num

    def precision(self):
        """Returns the share of the chosen that are positive; 0 where none is chosen."""
        return self.hits / np.maximum(self.chosen, 1)

    def recall(self):
        """Returns the share of the positive that are chosen."""
        return self.hits / self.positives

    def f1(self):
        """Returns the harmonic mean of precision and recall."""
        return 2 * self.hits / (self.chosen + self.positives)

    def mcc(self):
        """Returns Matthews' correlation coefficient; 0 where one class is predicted."""
        negatives, left = self.num - self.positives, self.num - self.chosen
        product = self.chosen * left * float(self.positives) * negatives
        covariance = self.hits * float(self.num) - self.chosen * float(self.positives)
        return np.where(product > 0, covariance / np.sqrt(np.maximum(product, 1)), 0.0)

    def average_precision(self):
        """Returns the mean precision, weighted by the recall that each threshold adds."""
        return float(np.sum(np.diff(self.recall()) * self.precision()[1:]))

    def values(self, at):
        """Returns precision, recall and F1 of a place."""
        return _values(int(self.hits[at]), int(self.chosen[at]), int(self.positives))


def _values(hits, chosen, positives):
    return {
        "precision": hits / max(chosen, 1),
        "recall": hits / positives,
        "f1": 2 * hits / (chosen + positives),
    }


def check_scores(scores):
    """Raises ValueError if there is nothing to correlate with."""
    y = _column(scores, "scores")
    if len(y) < 2 or (y == y[0]).all():
        raise ValueError(
            "Expected at least two different scores, as a correlation needs. Received: "
            f"{len(y)} scores, all of them {y[0] if len(y) else 'none'}."
        )


def check_classes(labels):
    """Raises ValueError if labels are not 1 and 0, some of both."""
    y = _column(labels, "labels")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y)) != 2:
        raise ValueError(
            "Expected labels 1 and 0, of positive and negative pairs, and some of both. "
            f"Received: {shown(np.unique(y).tolist())}. Of scores, give scores >= limit."
        )


def _classes(similarities, labels):
    check_classes(labels)
    x, y = _numbers(similarities, labels, "labels")
    return x, y.astype("int64")


def _numbers(similarities, values, name):
    """Returns both as finite float64 `[N]`; those of float32 keep their value."""
    x, y = _column(similarities, "similarities"), _column(values, name)
    if len(x) != len(y):
        raise ValueError(
            f"Expected as many similarities as {name}. Received: {len(x)} and {len(y)}."
        )
    return x, y


def _column(values, name):
    try:
        array = np.asarray(values).astype("float64")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} as numbers [N]. Received: {shown(values)}"
        ) from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(
            f"Expected {name} as finite numbers [N]. Received: shape {array.shape}, "
            f"{int((~np.isfinite(array)).sum())} of them not finite."
        )
    return array


def _correlation(x, y):
    if (x == x[0]).all():
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _ranks(x):
    """Returns the rank of each number; equal ones have the mean of their ranks."""
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]
