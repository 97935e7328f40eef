"""What the package mteb calls; it brings torch, and is not installed here."""

import enum
import sys
import types

import numpy as np
import pytest

from tfembloss.evaluation import MTEBEncoder


class PromptType(enum.Enum):
    query = "query"
    document = "document"


class Model:
    prompts = {"query": "query: ", "document": ""}  # noqa: RUF012

    def predict(self, x, batch_size=None, verbose=0, prompt=None):
        self.asked = batch_size, prompt
        return np.array([[len(text), 1.0] for text in x], "float32")


def test_texts_of_batches_and_of_a_list():
    model = Model()
    encoder = MTEBEncoder(model, "me/model", "1")
    batches = [{"text": ["a", "bb"], "title": ["", ""]}, {"text": ["ccc"]}]
    found = encoder.encode(
        batches, task_metadata=None, hf_split="test", hf_subset="default",
        prompt_type=PromptType.query, batch_size=8, show_progress_bar=False,
    )  # fmt: skip
    np.testing.assert_array_equal(found[:, 0], [1, 2, 3])
    assert model.asked == (8, "query")
    encoder = MTEBEncoder(model, "me/model", "1", batch_size=4)
    assert encoder.encode(["a", "bb"], prompt_type="passage").shape == (2, 2)
    assert model.asked == (4, "document")
    encoder.encode(["a"])
    assert model.asked == (4, None)


@pytest.mark.parametrize(
    "distance, expected",
    [("cosine", [[1, 0], [0.6, 0.8]]), ("dot", [[2, 0], [6, 8]]), ("euclidean", None)],
)
def test_similarities(distance, expected, monkeypatch):
    torch = types.SimpleNamespace(from_numpy=lambda x: x)
    monkeypatch.setitem(sys.modules, "torch", torch)
    a, b = np.array([[2.0, 0.0], [6.0, 8.0]]), np.eye(2)
    if expected is None:
        expected = -np.linalg.norm(a[:, None] - b, axis=2)
    encoder = MTEBEncoder(Model(), "me/model", "1", distance)
    np.testing.assert_allclose(encoder.similarity(a, b), expected, atol=1e-6)
    rows = encoder.similarity_pairwise(a, b)
    np.testing.assert_allclose(rows, np.diag(expected), atol=1e-6)
    one = encoder.similarity(a[0], b)  # mteb also compares one row
    np.testing.assert_allclose(one, np.array(expected)[:1], atol=1e-6)


def test_other_inputs_are_refused():
    encoder = MTEBEncoder(Model(), "me/model", "1")
    with pytest.raises(ValueError, match="tasks of texts"):
        encoder.encode([{"image": [1, 2]}])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(model="folder"), "a model with `predict`"),
        (dict(name="model"), "organization/name"),
        (dict(revision=None), "Expected revision as a text"),
        (dict(distance="cos"), "cos"),
        (dict(batch_size=0), "batch_size"),
        (dict(towers="ab"), "towers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MTEBEncoder(**{"model": Model(), "name": "a/b", "revision": "1", **arguments})
