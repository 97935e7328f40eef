"""Files of BEIR: what they contain, and what is said about those that are no such files."""

import json

import numpy as np
import pytest

from tfembloss.evaluation import RetrievalEvaluator, read_beir

CORPUS = [
    {"_id": "d1", "title": "Apples", "text": "are red"},
    {"_id": "d2", "title": "", "text": "the sky"},
    {"_id": 3, "text": "the sea", "metadata": {}},
]
QUERIES = [{"_id": "q1", "text": "a fruit"}, {"_id": "q2", "text": "blue"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq1\t3\t1\n"


def write(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    (folder / "qrels" / "test.tsv").write_text(qrels, "utf-8")
    return folder


def test_what_is_read(tmp_path):
    found = read_beir(write(tmp_path / "set"))
    assert found.corpus == {"d1": "Apples are red", "d2": "the sky", "3": "the sea"}
    assert found.queries == {"q1": "a fruit"}
    assert found.relevant == {"q1": {"d1": 2.0, "3": 1.0}}

    class Model:
        def predict(self, x, **options):
            return np.array([[len(text), 1.0] for text in x])

    metrics = RetrievalEvaluator(*found, metrics=["recall@3", "ndcg@3"]).evaluate(Model())
    assert metrics["recall@3"] == 1.0 and 0 < metrics["ndcg@3"] <= 1


def test_a_header_is_not_needed(tmp_path):
    folder = write(tmp_path / "set", qrels="q2\td2\t1\n\nq2\tunknown\t0\n")
    assert read_beir(folder).relevant == {"q2": {"d2": 1.0}}


@pytest.mark.parametrize(
    ("message", "files"),
    [
        (r"_id and text\. .*corpus\.jsonl, line 1", {"corpus": [{"text": "a"}]}),
        (r"each _id once\. .*'q1' twice", {"queries": [QUERIES[0], QUERIES[0]]}),
        (r"ids of corpus\.jsonl.*'d9'.* line 1", {"qrels": "q1\td9\t1\n"}),
        (r"ids of queries\.jsonl.*'q9'", {"qrels": "q9\td1\t1\n"}),
        (r"with tabs between.*line 1: 'q1 d1 1'", {"qrels": "q1 d1 1\n"}),
        (r"with tabs between.*line 1: 'q1\\td1\\tyes'", {"qrels": "q1\td1\tyes\n"}),
    ],
)
def test_damaged_files_are_named(tmp_path, message, files):
    with pytest.raises(ValueError, match=message):
        read_beir(write(tmp_path / "set", **files))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"with corpus\.jsonl\. .*with no files"):
        read_beir(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"with dev\.tsv\. .*with test\.tsv"):
        read_beir(write(tmp_path / "set"), split="dev")
