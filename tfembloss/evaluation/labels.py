"""A callback that evaluates embeddings of labeled rows."""

from tfembloss import distances
from tfembloss.checks import as_list
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.inputs import check_inputs, num_rows
from tfembloss.evaluation.metrics import (
    LABEL_METRICS,
    check_labels,
    label_retrieval_metrics,
    parse_metrics,
)


class LabelEvaluator(Evaluator):
    """Searches, for each labeled row, the others with its label, after each epoch.

    Args:
        inputs: inputs of the model's `predict`, such as texts, N of them.
        ids: labels `[N]`, integers or strings.
        metrics: names of the metrics, see `label_retrieval_metrics`.
        distance: the distance that ranks, see `tfembloss.distances`.
        **options: see `Evaluator`. The logs contain `val_precision@1` and so on.

    Raises:
        ValueError: an argument is invalid; see also `label_retrieval_metrics`.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> points = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> LabelEvaluator(points, [0, 0, 1, 1], ["precision@1"]).evaluate(model)
    {'precision@1': 1.0}

    Relations:
        pytorch-metric-learning's AccuracyCalculator, which is no callback.
    """

    def __init__(self, inputs, ids, metrics=LABEL_METRICS, distance="cosine", **options):
        super().__init__(**options)
        _, self.inputs = check_inputs(inputs, "inputs")
        self.ids = ids if hasattr(ids, "dtype") else as_list(ids, "ids as labels [N]")
        self.metrics = tuple(parse_metrics(metrics)) or LABEL_METRICS
        distances.get(distance)
        self.distance = distance
        check_labels(self.ids, (num_rows(self.inputs) or len(self.ids),))

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        embeddings = self.embeddings(model, self.inputs, "inputs", None)
        return label_retrieval_metrics(embeddings, self.ids, self.metrics, self.distance)
