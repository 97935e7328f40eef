"""The example of two stages, on a few docstrings."""

import numpy as np
import rerank as example


def test_lists_have_the_answer_first_and_other_hits():
    hits = np.array([[3, 1, 2, 0], [1, 4, 2, 3]])
    rows, labels = example.make_lists([1, 0], hits, length=3)
    assert rows[:, 0].tolist() == [1, 0] and labels.tolist() == [[1, 0, 0]] * 2
    for answer, row, of_query in zip([1, 0], rows, hits, strict=True):
        assert set(row[1:]) < set(of_query) - {answer} and len(set(row)) == 3


def test_it_trains_and_measures_both(monkeypatch, capsys):
    docstrings = [
        (f"module.name_{i}", f"Returns number {i} of all.\n\nSomething else about {i}.")
        for i in range(40)
    ]
    monkeypatch.setattr(example, "read_docstrings", lambda: docstrings)
    found = example.main(epochs=1, cross_epochs=1, dim=8, length=3)
    assert found.keys() == {
        "embedding model", "reranked, LambdaLoss", "reranked, cross-entropy"
    }  # fmt: skip
    assert all(0 <= value <= 1 for row in found.values() for value in row.values())
    printed = capsys.readouterr().out
    assert "BM25" in printed and "Milliseconds of a query" in printed
