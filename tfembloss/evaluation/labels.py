"""A callback that evaluates embeddings of labeled rows."""

from tfembloss import distances
from tfembloss.checks import as_list, one_of
from tfembloss.evaluation.clusters import CLUSTER_METRICS, clustering_metrics
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.inputs import check_inputs, labels_of, num_rows
from tfembloss.evaluation.metrics import (
    AVERAGES,
    LABEL_METRICS,
    label_retrieval_metrics,
    parse_metrics,
)


class LabelEvaluator(Evaluator):
    """Searches, for each labeled row, the others with its label, after each epoch.

    Args:
        inputs: inputs of the model's `predict`, such as texts, N of them.
        ids: labels `[N]`, integers or strings.
        metrics: names of the metrics, of `label_retrieval_metrics` and of
            `clustering_metrics`.
        distance: the distance that ranks, see `tfembloss.distances`.
        average: as in `label_retrieval_metrics`. With None, there are metrics of each
            label: `val_precision@1_cat` and so on. `nmi` and `ami` are of all labels.
        **options: see `Evaluator`. The logs contain `val_precision@1` and so on.

    Raises:
        ValueError: an argument is invalid; see also `label_retrieval_metrics`.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> points = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> LabelEvaluator(points, [0, 0, 1, 1], ["precision@1", "nmi"]).evaluate(model)
    {'precision@1': 1.0, 'nmi': 1.0}

    Relations:
        pytorch-metric-learning's AccuracyCalculator, which is no callback.
    """

    def __init__(
        self,
        inputs,
        ids,
        metrics=LABEL_METRICS,
        distance="cosine",
        average="micro",
        **options,
    ):
        super().__init__(**options)
        _, self.inputs = check_inputs(inputs, "inputs")
        self.ids = ids if hasattr(ids, "dtype") else as_list(ids, "ids as labels [N]")
        metrics = [metrics] if isinstance(metrics, str) else as_list(metrics, "metrics")
        self.metrics = tuple(metrics) or LABEL_METRICS
        self._clustering = [name for name in self.metrics if name in CLUSTER_METRICS]
        self._ranking = [name for name in self.metrics if name not in CLUSTER_METRICS]
        parse_metrics(self._ranking, CLUSTER_METRICS)
        distances.get(distance)
        self.distance = distance
        self.average = one_of("average", average, AVERAGES)
        labels_of(self.ids, (num_rows(self.inputs) or len(self.ids),))

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        data = self.embeddings(model, self.inputs, "inputs", None), self.ids
        found = {}
        if self._ranking:
            found = label_retrieval_metrics(
                *data, self._ranking, self.distance, self.average
            )
        if self.average is None:
            found = {
                f"{name}_{label.decode() if isinstance(label, bytes) else label}": value
                for name, of_labels in found.items()
                for label, value in of_labels.items()
            }
        if self._clustering:
            found |= clustering_metrics(*data, self._clustering, self.distance)
        return found
