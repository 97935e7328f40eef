"""Reads retrieval benchmarks in the format of BEIR."""

import json
import os
import pathlib
from typing import NamedTuple


class RetrievalData(NamedTuple):
    """Queries, a corpus and what is relevant: the arguments of `RetrievalEvaluator`.

    Args:
        queries: dict of id to text.
        corpus: dict of id to text, the title before it.
        relevant: dict of query id to a dict of corpus id to grade, above 0.
    """

    queries: dict
    corpus: dict
    relevant: dict


def read_beir(folder, split="test"):
    """Reads a retrieval set in the format of BEIR, as NanoBEIR and MTEB have them too.

    The folder has `corpus.jsonl`, with `_id`, `title` and `text`, `queries.jsonl`, with
    `_id` and `text`, and `qrels/{split}.tsv`, with a query's id, a corpus id and a grade.
    Queries without anything relevant in this split are left out. BEIR measures with
    `ignore_identical_ids=True`, MTEB where a task says so: where queries are texts of the
    corpus (ArguAna, Quora).

    Args:
        folder: path of the folder.
        split: name of the file of grades, without its ending.

    Returns:
        `RetrievalData`: queries, corpus, relevant.

    Raises:
        ValueError: a file is missing or damaged, or a grade is of an unknown query or text.

    Example:

    ```python
    evaluator = tfembloss.evaluation.RetrievalEvaluator(
        *read_beir("arguana"), ignore_identical_ids=True
    )
    print(evaluator.evaluate(model))
    ```

    Reference:
        Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of
        Information Retrieval Models", 2021, https://arxiv.org/abs/2104.08663
    """
    folder = pathlib.Path(os.fspath(folder))
    corpus = _texts(folder / "corpus.jsonl")
    queries = _texts(folder / "queries.jsonl")
    relevant = _grades(folder / "qrels" / f"{split}.tsv", queries, corpus)
    return RetrievalData({id: queries[id] for id in relevant}, corpus, relevant)


def _texts(path):
    texts = {}
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            id, parts = str(row["_id"]), (row.get("title") or "", row["text"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "Expected JSON objects with _id and text. Received: "
                f"{path}, line {number}: {line[:80]!r}"
            ) from error
        if id in texts:
            raise ValueError(f"Expected each _id once. Received: {path}, {id!r} twice.")
        texts[id] = " ".join(str(part) for part in parts if part)
    return texts


def _grades(path, queries, corpus):
    relevant = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        if number == 1 and fields[-1:] == ["score"]:
            continue
        try:
            query, document, grade = fields
            grade = float(grade)
        except ValueError as error:
            raise ValueError(
                "Expected a query's id, a corpus id and a grade, with tabs between them. "
                f"Received: {path}, line {number}: {line[:80]!r}"
            ) from error
        if grade <= 0:
            continue
        for id, texts, name in ((query, queries, "queries"), (document, corpus, "corpus")):
            if id not in texts:
                raise ValueError(
                    f"Expected ids of {name}.jsonl. Received: {id!r} in {path}, line "
                    f"{number}."
                )
        relevant.setdefault(query, {})[document] = grade
    return relevant


def _lines(path):
    """Yields the number of each line that is not empty, from 1, and the line."""
    if not path.is_file():
        found = sorted(x.name for x in path.parent.glob("*"))
        raise ValueError(
            f"Expected a folder in the format of BEIR, with {path.name}. Received: "
            f"{path.parent}, with {', '.join(found[:12]) or 'no files'}."
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")
