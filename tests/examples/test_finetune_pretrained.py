"""The example of a pretrained encoder, on a small checkpoint and a few docstrings."""

import argparse
import json

import numpy as np
import pytest
from checkpoints import unpack

REASON = 'pip install ".[hub]"'
pytest.importorskip("safetensors", reason=f"no safetensors: {REASON}")
pytest.importorskip("sentencepiece", reason=f"no sentencepiece: {REASON}")

import finetune_pretrained as example  # noqa: E402

import tfembloss  # noqa: E402

# Instead of sentence-transformers, which the tests do not install.
PEER = """
import os, numpy

class SentenceTransformer:
    def __init__(self, folder, device):
        self.folder = folder

    def float(self):
        return self

    def encode(self, texts):
        embeddings = numpy.load(os.environ["EMBEDDINGS"])
        assert len(texts) == len(embeddings)
        return embeddings
"""


@pytest.fixture
def folder(tmp_path):
    return unpack(tmp_path, "bert") / "bert"


def test_it_trains_saves_and_exports(folder, tmp_path, monkeypatch, capfd):
    docstrings = [
        (f"module.name_{i}", f"Returns number {i} of all.\n\nSomething else about {i}.")
        for i in range(40)
    ]
    monkeypatch.setattr(example.data, "read_docstrings", lambda: docstrings)
    monkeypatch.setattr(example, "FINETUNED", tmp_path / "finetuned")
    model = tfembloss.EmbeddingModel.from_pretrained(folder, sequence_length=16)
    before = model.predict(["Returns"], verbose=0)
    options = {"pairs": 16, "batch_size": 8, "epochs": 1, "learning_rate": 1e-3}
    arguments = argparse.Namespace(folder=folder, peer_python=None, **options)
    example.main(model, arguments)

    after = model.predict(["Returns"], verbose=0)
    assert np.abs(after - before).max() > 1e-4
    again = tfembloss.EmbeddingModel.from_pretrained(tmp_path / "finetuned")
    np.testing.assert_allclose(again.predict(["Returns"], verbose=0), after, atol=1e-6)
    card = (tmp_path / "finetuned" / "README.md").read_text()
    assert "`MultipleNegativesRankingLoss(scale=20.0, " in card and "| mrr@10 |" in card
    printed = capfd.readouterr().out
    assert "16 queries train" in printed and "BM25" in printed
    for query in example.data.SAMPLE_QUERIES:  # answered by a process of its own
        assert f"\n{query}\n  0." in printed or f"\n{query}\n  1." in printed


def test_a_difference_to_sentence_transformers_ends_the_run(
    folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "sentence_transformers.py").write_text(PEER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("EMBEDDINGS", str(tmp_path / "peer.npy"))
    model = tfembloss.EmbeddingModel.from_pretrained(folder)
    texts = [*example.ODD_TEXTS, json.dumps("free")]
    peer = model.predict(texts, verbose=0)
    np.save(tmp_path / "peer.npy", peer)
    example.compare(model, folder, texts, example.sys.executable)
    assert "differ by 0.0e+00" in capsys.readouterr().out
    peer[1] += 1e-3
    np.save(tmp_path / "peer.npy", peer)
    with pytest.raises(SystemExit, match="at most 1e-4"):
        example.compare(model, folder, texts, example.sys.executable)
