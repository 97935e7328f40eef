"""Pictures: what is drawn, and what is said about bad arguments."""

import keras
import numpy as np
import pytest

from tfembloss import evaluation

MISSING = "no matplotlib: pip install '.[plot]'"
figure = pytest.importorskip("matplotlib.figure", reason=MISSING)

SIMILARITIES, LABELS = [0.9, 0.7, 0.2, 0.1], [1, 0, 1, 0]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_embeddings_are_points_by_label(tmp_path):
    rng = np.random.default_rng(0)
    plane = rng.normal(size=[30, 2]) * [5, 1]
    embeddings = plane @ np.linalg.qr(rng.normal(size=[6, 6]))[0][:2]
    labels = np.arange(30) % 3
    ax = evaluation.plot_embeddings(embeddings, labels)
    assert ax.get_title() == "PCA, 100% of the variance"
    assert legend(ax) == ["0", "1", "2"]
    points = np.zeros([30, 2])
    for label, drawn in enumerate(ax.collections):
        points[labels == label] = drawn.get_offsets()
    between = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(
        between, np.linalg.norm(plane[:, None] - plane, axis=-1), atol=1e-6
    )
    ax.figure.savefig(tmp_path / "embeddings.png")
    assert (tmp_path / "embeddings.png").stat().st_size > 5000


def test_many_labels_few_rows_and_no_labels():
    ax = evaluation.plot_embeddings(np.eye(60), [*range(25), *[25] * 35])
    assert len(legend(ax)) == 21 and legend(ax)[0] == "others" and "25" in legend(ax)
    for embeddings in (np.ones([2, 1]), np.ones([3, 4]), np.eye(2)):
        assert evaluation.plot_embeddings(embeddings).get_legend() is None


def test_similarities_and_the_best_threshold():
    ax = evaluation.plot_similarities(SIMILARITIES, LABELS)
    assert legend(ax) == ["negative, 2 pairs", "positive, 2 pairs", "threshold 0.15"]
    ax = evaluation.plot_similarities(SIMILARITIES, LABELS, 0.5)
    assert legend(ax)[-1] == "threshold 0.5"


def test_curves_of_two_models_are_compared():
    ax = evaluation.plot_precision_recall(SIMILARITIES, LABELS, "before")
    ax = evaluation.plot_precision_recall(LABELS, LABELS, "after", ax)
    assert legend(ax) == [
        "before, average precision 0.833",
        "after, average precision 1.000",
    ]
    recall, precision = ax.lines[0].get_data()
    np.testing.assert_allclose(recall, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(precision, [1, 1, 0.5, 2 / 3, 0.5])


def test_a_history_has_a_panel_for_each_metric():
    logs = {"loss": [3.0, 2.0], "val_loss": [3.0, 2.5], "val_mrr": [0.5]}
    drawn = evaluation.plot_history(logs)
    assert [ax.get_title() for ax in drawn.axes] == ["loss", "mrr"]
    assert legend(drawn.axes[0]) == ["training", "validation"]
    np.testing.assert_array_equal(drawn.axes[1].lines[0].get_xdata(), [2])
    assert len(evaluation.plot_history(logs, ["val_mrr"]).axes) == 1
    history = keras.callbacks.History()
    history.history = logs
    assert len(evaluation.plot_history(history).axes) == 2


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("at least 2 embeddings", lambda: evaluation.plot_embeddings([[1.0]])),
        ("a label for each of 2", lambda: evaluation.plot_embeddings(np.eye(2), ["a"])),
        ("method", lambda: evaluation.plot_embeddings(np.eye(2), method="tsne")),
        ("finite", lambda: evaluation.plot_embeddings(np.eye(2) * np.nan)),
        ("positive and negative pairs", lambda: evaluation.plot_similarities([1], [1])),
        ("at least one epoch", lambda: evaluation.plot_history({})),
        ("metrics of", lambda: evaluation.plot_history({"loss": [1]}, ["loss", "mr"])),
        ("metrics of", lambda: evaluation.plot_history({"loss": [1]}, ["mrr"])),
    ],
)
def test_bad_arguments_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"matplotlib .*tfembloss\[plot\]"):
        evaluation.plot_similarities(SIMILARITIES, LABELS)
    with pytest.raises(ValueError, match="umap-learn"):
        evaluation.plot_embeddings(np.eye(3), method="umap")
