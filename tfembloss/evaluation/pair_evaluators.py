"""Evaluators of pairs and triplets: callbacks that measure a model in `fit`."""

import numbers

import numpy as np
import tensorflow as tf

from tfembloss import distances, search
from tfembloss.checks import as_list, integer, number, shown
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.inputs import check_inputs, num_rows
from tfembloss.evaluation.pairs import (
    Cuts,
    check_classes,
    check_scores,
    pair_classification_metrics,
    similarity_metrics,
)
from tfembloss.models.cross_encoder import CrossEncoder

# Whose negative is a similarity that is reported; of others the distance itself is.
_SIMILARITIES = {"cosine": lambda distance: 1 - distance, "dot": lambda distance: -distance}


class _PairEvaluator(Evaluator):
    """Base of the evaluators of pairs of inputs.

    Args:
        first, second: the inputs of the pairs.
        distance: see `SimilarityEvaluator`.
        **options: see `Evaluator`.
    """

    def __init__(self, first, second, distance="cosine", **options):
        super().__init__(**options)
        self.first = _inputs(first, "first")
        self.second = _inputs(second, "second")
        distances.get(distance)
        self.distance = distance

    def similarities(self, model):
        """Returns the similarity of each pair `[N]`: the larger, the more similar."""
        if isinstance(model, CrossEncoder):
            x = (self.first, self.second)
            return model.predict(x, batch_size=self.batch_size, verbose=0)
        first = self.embeddings(model, self.first, "first", "query")
        second = self.embeddings(model, self.second, "second", "document")
        return row_similarities(first, second, self.distance)


class SimilarityEvaluator(_PairEvaluator):
    """Correlates the similarity of pairs with their true scores, after each epoch.

    Args:
        first: inputs of the model's `predict`, such as texts, N of them.
        second: those that they are compared with, N.
        scores: the true scores of the pairs `[N]`, of any range.
        distance: the distance whose negative is the similarity; see
            `tfembloss.distances`. A `CrossEncoder` gives scores itself.
        **options: `name`, `frequency`, `unit`, `csv_file`, `batch_size`, `towers`: see
            `Evaluator`. The logs contain `val_spearman` and `val_pearson`, and with
            `name="sts"` `val_sts_spearman`.

    Raises:
        ValueError: an argument is invalid, or the inputs differ in number; see also
            `similarity_metrics`.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> a, b = np.array([[1, 0], [1, 0], [1, 0]]), np.array([[1, 0], [1, 1], [0, 1]])
    >>> SimilarityEvaluator(a, b, [5, 3, 0]).evaluate(model)
    {'pearson': 0.99..., 'spearman': 1.0}

    Relations:
        sentence-transformers' EmbeddingSimilarityEvaluator, and its
        CrossEncoderCorrelationEvaluator for a `CrossEncoder`.
    """

    def __init__(self, first, second, scores, distance="cosine", **options):
        super().__init__(first, second, distance, **options)
        self.scores = as_list(scores, "scores as numbers [N]")
        check_scores(self.scores)
        _check_numbers(first=self.first, second=self.second, scores=np.asarray(self.scores))

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        return similarity_metrics(self.similarities(model), self.scores)


class PairClassificationEvaluator(_PairEvaluator):
    """Measures how well a threshold tells positive from negative pairs, after each epoch.

    Args:
        first: inputs of the model's `predict`, such as texts, N of them.
        second: those that they are compared with, N.
        labels: `[N]`, 1 for positive pairs and 0 for negative ones.
        distance: see `SimilarityEvaluator`. Thresholds are cosines for `"cosine"`, scalar
            products for `"dot"`, scores for a `CrossEncoder`, and else distances.
        **options: see `Evaluator`.

    Raises:
        ValueError: an argument is invalid, or the inputs differ in number; see also
            `pair_classification_metrics`, which has the names of the metrics.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> a, b = np.array([[1, 0], [1, 0], [1, 0]]), np.array([[1, 0], [1, 1], [0, 1]])
    >>> found = PairClassificationEvaluator(a, b, [1, 1, 0]).evaluate(model)
    >>> found["f1"], round(found["f1_threshold"], 3)
    (1.0, 0.354)

    Relations:
        sentence-transformers' BinaryClassificationEvaluator, and its
        CrossEncoderClassificationEvaluator for a `CrossEncoder`.
    """

    def __init__(self, first, second, labels, distance="cosine", **options):
        super().__init__(first, second, distance, **options)
        self.labels = as_list(labels, "labels 1 and 0 [N]")
        check_classes(self.labels)
        _check_numbers(first=self.first, second=self.second, labels=np.asarray(self.labels))

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        found = pair_classification_metrics(self.similarities(model), self.labels)
        if not isinstance(model, CrossEncoder) and self.distance not in _SIMILARITIES:
            for name in ("accuracy_threshold", "f1_threshold"):
                found[name] = -found[name]
        return found


class TripletEvaluator(Evaluator):
    r"""Measures how often the anchor is nearer to its positive, after each epoch.

    $$\mathrm{accuracy} = \frac1N \sum_i [d(a_i, p_i) + \mathrm{margin} < d(a_i, n_i)]$$

    Args:
        anchors: inputs of the model's `predict`, such as texts, N of them.
        positives: inputs that belong to them.
        negatives: inputs that do not.
        margin: at least 0.
        distance: see `tfembloss.distances`.
        **options: see `Evaluator`. The logs contain `val_accuracy`; with a `name`, it is
            not mistaken for Keras's own.

    Raises:
        ValueError: an argument is invalid, or the inputs differ in number.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> a, p, n = np.array([[[1, 0]], [[1, 0.1]], [[0, 1]]])
    >>> TripletEvaluator(a, p, n).evaluate(model)
    {'accuracy': 1.0}

    Relations:
        sentence-transformers' TripletEvaluator.
    """

    def __init__(
        self, anchors, positives, negatives, margin=0.0, distance="cosine", **options
    ):
        super().__init__(**options)
        self.anchors = _inputs(anchors, "anchors")
        self.positives = _inputs(positives, "positives")
        self.negatives = _inputs(negatives, "negatives")
        self.margin = number("margin", margin)
        _check_numbers(
            anchors=self.anchors, positives=self.positives, negatives=self.negatives
        )
        distances.get(distance)
        self.distance = distance

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        anchors = self.embeddings(model, self.anchors, "anchors", "query")
        nearer, farther = (
            row_similarities(
                anchors, self.embeddings(model, x, name, "document"), self.distance
            )
            for x, name in ((self.positives, "positives"), (self.negatives, "negatives"))
        )
        return {"accuracy": float(np.mean(nearer > farther + self.margin))}


class TranslationEvaluator(Evaluator):
    """Measures how often a text's translation is the nearest of all, after each epoch.

    Args:
        source: inputs of the model's `predict`, such as texts, N of them.
        target: their translations. One that is equal to the right one is right.
        distance: see `tfembloss.distances`.
        **options: see `Evaluator`. The logs contain `val_source_to_target`,
            `val_target_to_source`, and `val_mean_accuracy` of both.

    Raises:
        ValueError: an argument is invalid, or the inputs differ in number.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> TranslationEvaluator(np.eye(2), np.eye(2)).evaluate(model)
    {'source_to_target': 1.0, 'target_to_source': 1.0, 'mean_accuracy': 1.0}

    Relations:
        sentence-transformers' TranslationEvaluator, which compares by cosine.
    """

    def __init__(self, source, target, distance="cosine", **options):
        super().__init__(**options)
        self.source, self.target = _inputs(source, "source"), _inputs(target, "target")
        _check_numbers(source=self.source, target=self.target)
        distances.get(distance)
        self.distance = distance

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        source = self.embeddings(model, self.source, "source", "query")
        target = self.embeddings(model, self.target, "target", "document")
        _check_as_many(source, target)
        found = {}
        for name, (queries, corpus, texts) in {
            "source_to_target": (source, target, self.target),
            "target_to_source": (target, source, self.source),
        }.items():
            _, nearest = search.top_k(queries, corpus, 1, self.distance)
            right = np.array(nearest)[:, 0] == np.arange(len(queries))
            if isinstance(texts, list):
                equal = [texts[i] == texts[j] for i, (j,) in enumerate(np.array(nearest))]
                right |= np.array(equal)
            found[name] = float(right.mean())
        return found | {"mean_accuracy": float(np.mean(list(found.values())))}


class ParaphraseMiningEvaluator(Evaluator):
    r"""Finds the duplicates of a corpus by their similarity, after each epoch.

    Each text's `top_k` most similar others are pairs, the most similar `max_pairs` of which
    count as found. `recall` is of all duplicates, found or not.

    Args:
        texts: inputs of the model's `predict`, N of them; or a dict of id to text.
        duplicates: pairs of rows (or ids) that are duplicates.
        top_k: the number of neighbors of each text, > 0.
        max_pairs: the maximum number of pairs, > 0.
        **options: see `Evaluator`. The logs contain `val_ap`, and the best `val_f1` with
            its `val_precision`, `val_recall` and `val_f1_threshold`, a cosine.

    Raises:
        ValueError: an argument is invalid, a pair is not of two of the texts, or there are
            no pairs.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> points = np.array([[1, 0], [1, 0.1], [0, 1]])
    >>> ParaphraseMiningEvaluator(points, [(0, 1)]).evaluate(model)["f1"]
    1.0

    Relations:
        sentence-transformers' ParaphraseMiningEvaluator, which calls `ap`
        average_precision and `f1_threshold` threshold, and can add the duplicates of
        duplicates.
    """

    def __init__(self, texts, duplicates, top_k=100, max_pairs=500_000, **options):
        super().__init__(**options)
        ids, self.texts = check_inputs(texts, "texts")
        self.top_k = integer("top_k", top_k, 1)
        self.max_pairs = integer("max_pairs", max_pairs, 1)
        row_of = None if ids is None else {id: row for row, id in enumerate(ids)}
        self.duplicates = set()
        for pair in as_list(duplicates, "duplicates as a list of pairs"):
            rows = list(pair) if isinstance(pair, list | tuple | np.ndarray) else []
            rows = rows if row_of is None else [row_of.get(x) for x in rows]
            are_rows = all(isinstance(x, numbers.Integral) for x in rows)
            if len(set(rows)) != 2 or not are_rows or min(rows) < 0 or len(rows) != 2:
                raise ValueError(
                    "Expected duplicates as pairs of rows, or of ids if the texts have "
                    f"ids. Received: {shown(pair)}"
                )
            self.duplicates.add((int(min(rows)), int(max(rows))))
        if not self.duplicates:
            raise ValueError("Expected at least one pair of duplicates. Received none.")

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        embeddings = self.embeddings(model, self.texts, "texts", None)
        num, last = len(embeddings), max(row for _, row in self.duplicates)
        if last >= num:
            raise ValueError(
                f"Expected duplicates below row {num}, as there are {num} texts. Received: "
                f"row {last}."
            )
        k = min(self.top_k + 1, num)
        found, rows = search.top_k(embeddings, embeddings, k, "cosine")
        first = np.repeat(np.arange(num), k)
        pairs = np.sort(np.stack([first, rows.ravel()], axis=1), axis=1)
        keys, places = np.unique(pairs[:, 0] * num + pairs[:, 1], return_index=True)
        pairs, similarities = pairs[places], 1 - found.ravel()[places].astype("float64")
        others = pairs[:, 0] != pairs[:, 1]
        keys, similarities = keys[others], similarities[others]
        best = np.argsort(-similarities, kind="stable")[: self.max_pairs]
        keys, similarities = keys[best], similarities[best]
        right = np.isin(keys, [a * num + b for a, b in self.duplicates])
        cuts = Cuts(similarities, right.astype("int64"), len(self.duplicates))
        at = cuts.f1().argmax()
        return {
            "ap": cuts.average_precision(),
            **cuts.values(at),
            "f1_threshold": cuts.threshold(at),
        }


class MSEEvaluator(Evaluator):
    r"""Measures the distance to a teacher's embeddings, after each epoch.

    $$\mathrm{mse} = \frac{1}{N D} \sum_{i, j} (s_{ij} - t_{ij})^2$$

    Args:
        inputs: inputs of the model's `predict`, such as texts, N of them.
        targets: the teacher's embeddings of the same, or of what they are translations of,
            `[N, D]`.
        **options: see `Evaluator`. The logs contain `val_mse`.

    Raises:
        ValueError: an argument is invalid, or the shapes differ.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> MSEEvaluator(np.zeros([3, 2]), np.ones([3, 2])).evaluate(model)
    {'mse': 1.0}

    Relations:
        sentence-transformers' MSEEvaluator, which reports -100 times that.
    """

    def __init__(self, inputs, targets, **options):
        super().__init__(**options)
        self.inputs = _inputs(inputs, "inputs")
        self.targets = np.asarray(targets)
        if self.targets.ndim != 2 or self.targets.dtype.kind not in "fiu":
            raise ValueError(
                "Expected targets as embeddings [N, D]. Received: shape "
                f"{self.targets.shape}, dtype {self.targets.dtype}"
            )
        _check_numbers(inputs=self.inputs, targets=self.targets)

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        found = self.embeddings(model, self.inputs, "inputs", None)
        if found.shape != self.targets.shape:
            raise ValueError(
                "Expected targets of the shape of the model's embeddings. Received: "
                f"{self.targets.shape}, and embeddings of shape {found.shape}."
            )
        differences = np.asarray(found, "float64") - self.targets
        return {"mse": float(np.mean(differences**2))}


def _inputs(x, name):
    ids, x = check_inputs(x, name)
    if ids is not None:
        raise ValueError(
            f"Expected {name} as inputs of the model's predict, in their order. Received: "
            f"a dict of ids, {shown(x)}. Give its values as a list."
        )
    are_texts = isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind in "USO"
    return x.tolist() if are_texts else x


def _check_numbers(**columns):
    """Raises ValueError if numbers of rows are known and differ."""
    known = {name: num_rows(x) for name, x in columns.items()}
    known = {name: count for name, count in known.items() if count is not None}
    if len(set(known.values())) > 1:
        raise ValueError(f"Expected equal numbers of {list(known)}. Received: {known}.")


def row_similarities(first, second, distance):
    """Returns `[N]` of embeddings `[N, D]`: cosines, scalar products, or -distances."""
    _check_as_many(first, second)
    for x, name in ((first, "first"), (second, "second")):
        search.check_finite(x, f"{name} inputs")
    first, second = (tf.convert_to_tensor(x, tf.float32) for x in (first, second))
    measure = distances.get(distance)
    found = np.asarray(measure.rowwise(first, second))
    of = _SIMILARITIES.get(distance) if isinstance(distance, str) else None
    return -found if of is None else of(found)


def _check_as_many(first, second):
    if len(first) != len(second) or not len(first):
        raise ValueError(
            "Expected pairs: as many inputs of one kind as of the other, and at least one. "
            f"Received: {len(first)} and {len(second)}."
        )
