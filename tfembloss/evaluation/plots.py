"""Pictures of embeddings, similarities and training; they need matplotlib."""

import importlib.util

import keras
import numpy as np

from tfembloss.checks import one_of, shown
from tfembloss.evaluation.pairs import calibrate, precision_recall
from tfembloss.search import as_embeddings, check_finite

_MOST_LABELS = 20  # that have a colour and a name of their own


def plot_embeddings(embeddings, labels=None, method="pca", ax=None):
    """Draws embeddings as points of a plane, coloured by their labels.

    Args:
        embeddings: array `[N, D]`, N >= 2.
        labels: labels `[N]`, of any kind; None for one colour. Of more than 20, those of
            fewest rows are grey.
        method: `"pca"`, the two directions in which they differ most; or `"umap"`, which
            keeps neighbors together and needs the package umap-learn.
        ax: `matplotlib.axes.Axes` to draw on; None for a new figure.

    Returns:
        The `matplotlib.axes.Axes`.

    Raises:
        ValueError: an argument is invalid, or a package is missing.

    Example:

    ```python
    ax = plot_embeddings(model.predict(texts), labels)
    ax.figure.savefig("embeddings.png")
    ```
    """
    embeddings = np.asarray(as_embeddings(embeddings, "embeddings"), "float64")
    check_finite(embeddings, "embeddings")
    if len(embeddings) < 2:
        raise ValueError(f"Expected at least 2 embeddings. Received: {len(embeddings)}")
    one_of("method", method, ["pca", "umap"])
    if labels is not None and len(labels) != len(embeddings):
        raise ValueError(
            f"Expected a label for each of {len(embeddings)} embeddings. Received: "
            f"{len(labels)} labels."
        )
    points, title = (_pca if method == "pca" else _umap)(embeddings)
    ax = _axes(ax)
    size = float(np.clip(3000 / len(points), 4, 40))
    if labels is None:
        ax.scatter(*points.T, size)
    else:
        _scatter_by_label(ax, points, [str(label) for label in labels], size)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _pca(embeddings):
    """Returns points `[N, 2]`, and what they are."""
    centred = embeddings - embeddings.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros([len(centred), 2])
    count = min(2, len(sizes))
    points[:, :count] = left[:, :count] * sizes[:count]
    total = np.sum(sizes**2)
    share = np.sum(sizes[:2] ** 2) / total if total else 1.0
    return points, f"PCA, {share:.0%} of the variance"


def _umap(embeddings):
    """Returns points `[N, 2]`, and what they are."""
    _require("umap", "umap-learn", 'method="umap"')
    import umap

    return umap.UMAP(random_state=0, n_jobs=1).fit_transform(embeddings), "UMAP"


def _scatter_by_label(ax, points, labels, size):
    names, counts = np.unique(labels, return_counts=True)
    named = sorted(names[np.argsort(-counts, kind="stable")][:_MOST_LABELS])
    rest = ~np.isin(labels, named)
    if rest.any():
        ax.scatter(*points[rest].T, size, color="lightgrey", label="others")
    from matplotlib import colormaps

    colours = colormaps["tab10" if len(named) <= 10 else "tab20"].colors
    for name, colour in zip(named, colours, strict=False):
        ax.scatter(*points[np.isin(labels, [name])].T, size, color=[colour], label=name)
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    ax.legend(**place, fontsize="small", ncols=1 + len(named) // 11)


def plot_similarities(similarities, labels, threshold=None, ax=None):
    """Draws how similar positive and negative pairs are, and a threshold between them.

    Args:
        similarities: numbers `[N]`; the larger, the more similar.
        labels: `[N]`, 1 for positive pairs and 0 for negative ones.
        threshold: a number; None for that of the highest F1.
        ax: `matplotlib.axes.Axes` to draw on; None for a new figure.

    Returns:
        The `matplotlib.axes.Axes`.

    Raises:
        ValueError: as in `pair_classification_metrics`, or matplotlib is missing.

    Example:

    ```python
    ax = plot_similarities(similarities, labels)
    ax.figure.savefig("similarities.png")
    ```
    """
    best = calibrate(similarities, labels)["threshold"]
    threshold = best if threshold is None else float(threshold)
    similarities = np.ravel(np.asarray(similarities, "float64"))
    labels = np.ravel(np.asarray(labels)).astype("int64")
    ax = _axes(ax)
    bins = np.histogram_bin_edges(similarities, bins=50)
    for value, name in ((0, "negative"), (1, "positive")):
        of_class = similarities[labels == value]
        ax.hist(of_class, bins, alpha=0.6, label=f"{name}, {len(of_class)} pairs")
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3g}")
    ax.set_xlabel("similarity")
    ax.set_ylabel("pairs")
    ax.legend(frameon=False)
    return ax


def plot_precision_recall(similarities, labels, name=None, ax=None):
    """Draws precision and recall of all thresholds; call it again to compare models.

    Args:
        similarities: numbers `[N]`; the larger, the more similar.
        labels: `[N]`, 1 for positive pairs and 0 for negative ones.
        name: of the curve in the legend, such as the model's; None for none.
        ax: `matplotlib.axes.Axes` to draw on, such as an earlier curve's; None for a new
            figure.

    Returns:
        The `matplotlib.axes.Axes`.

    Raises:
        ValueError: as in `pair_classification_metrics`, or matplotlib is missing.

    Example:

    ```python
    ax = plot_precision_recall(similarities_before, labels, "before")
    ax = plot_precision_recall(similarities_after, labels, "after", ax)
    ax.figure.savefig("precision_recall.png")
    ```
    """
    precision, recall, average = precision_recall(similarities, labels)
    ax = _axes(ax)
    title = f"average precision {average:.3f}"
    label = title if name is None else f"{name}, {title}"
    ax.step(recall, precision, where="pre", label=label)
    ax.set_xlabel("recall")
    ax.set_ylabel("precision")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.legend(frameon=False, loc="lower left")
    return ax


def plot_history(history, metrics=None):
    """Draws the loss and the metrics of a `fit` over its epochs.

    Args:
        history: what `fit` returned, or its `history`, a dict of name to one number for
            each epoch. A metric that was measured in fewer epochs is drawn as if these were
            spread evenly: the history does not say which.
        metrics: names of the metrics to draw; None for all. `val_` and the same without it
            are one panel.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: there is nothing to draw, or matplotlib is missing.

    Example:

    ```python
    history = model.fit(x, epochs=5, callbacks=[evaluator])
    plot_history(history).savefig("history.png")
    ```
    """
    logs = history.history if isinstance(history, keras.callbacks.History) else history
    if not isinstance(logs, dict) or not all(map(len, logs.values())) or not logs:
        raise ValueError(
            f"Expected what `fit` returned, of at least one epoch. Received: {shown(logs)}"
        )
    metrics = [metrics] if isinstance(metrics, str) else metrics
    known = {*logs, *(name.removeprefix("val_") for name in logs)}
    if metrics is not None and not (metrics and set(metrics) <= known):
        raise ValueError(
            f"Expected metrics of {list(logs)}. Received: metrics={shown(metrics)}"
        )
    panels = {}
    for name, values in logs.items():
        base = name.removeprefix("val_")
        if metrics is None or base in metrics or name in metrics:
            panels.setdefault(base, {})[name] = values
    _require_matplotlib()
    from matplotlib import figure, ticker

    epochs = max(map(len, logs.values()))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    picture = figure.Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    grid = np.ravel(picture.subplots(rows, columns, squeeze=False))
    for ax, (title, curves) in zip(grid, panels.items(), strict=False):
        for name, values in curves.items():
            places = np.linspace(epochs / len(values), epochs, len(values))
            label = "validation" if name.startswith("val_") else "training"
            ax.plot(places, values, ".-", label=label)
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.set_xlim(0.9, epochs + 0.1)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        if len(curves) > 1:
            ax.legend(frameon=False)
    for ax in grid[len(panels) :]:
        ax.remove()
    return picture


def _axes(ax):
    """Returns the axes, or those of a new figure that is not shown by itself."""
    if ax is not None:
        return ax
    _require_matplotlib()
    from matplotlib import figure

    return figure.Figure(figsize=(6, 4), layout="constrained").subplots()


def _require_matplotlib():
    _require("matplotlib", '"tfembloss[plot]"', "pictures")


def _require(module, package, purpose):
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"Expected {module} for {purpose}: pip install {package}")
