"""Evaluation of given embeddings, beside sentence-transformers and pytorch-metric-learning.

    python evaluation.py [--only REGEX] [--peer-python PATH]

- retrieval: 50,000 queries among 500,000 documents of 128 dimensions, one of which is
  relevant, in another run 5,000 queries; the metrics are those that the peer's
  InformationRetrievalEvaluator has by default.
- labels: 20,000 rows of 128 dimensions in 6 uneven classes, precision@1, R-precision and
  MAP@R; the peer is AccuracyCalculator with its search by torch.

Each library has a process for each case, which is asked once: seconds include what it
compiles. Memory is the process's peak above what it held with the embeddings.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
from harness import PEERS, SETTINGS, THREADS, forget_the_past, machine, memory, peer_python

DIM = 128
QUERIES = {
    "retrieval, 5,000 queries": 5_000,
    "retrieval, 50,000 queries": 50_000,
}
CORPUS, ROWS = 500_000, 20_000
CUTS = [1, 3, 5, 10]
CHUNK = 10_000  # of the peer's; with its default of 50,000, 24 GiB are too little


def retrieval_data(num_queries):
    """Queries near one document each, and the corpus."""
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=[CORPUS, DIM]).astype("float32")
    relevant = rng.integers(CORPUS, size=num_queries)
    noise = 1.5 * rng.normal(size=[num_queries, DIM])
    return (corpus[relevant] + noise).astype("float32"), corpus, relevant


def label_data():
    """Rows and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.choice(6, ROWS, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    rows = rng.normal(size=[ROWS, DIM]) + 0.3 * rng.normal(size=[6, DIM])[labels]
    return rows.astype("float32"), labels


class Given:
    """Stands for a model of ours: inputs are embeddings."""

    def predict(self, x, **_):
        return x


def our_retrieval(queries, corpus, relevant):
    """By RetrievalEvaluator."""
    from tfembloss.evaluation import RetrievalEvaluator

    names = [f"{name}@{k}" for k in CUTS for name in ("hit_rate", "precision", "recall")]
    names += ["mrr@10", "ndcg@10", "map@100"]
    rows = relevant.tolist()
    evaluator = RetrievalEvaluator(queries, corpus, rows, names)
    return lambda: evaluator.evaluate(Given())["ndcg@10"]


def peer_retrieval(queries, corpus, relevant):
    """By InformationRetrievalEvaluator, of texts that are row numbers."""
    import torch
    from sentence_transformers.sentence_transformer import evaluation
    from sentence_transformers.util import cos_sim

    class Model:
        similarity_fn_name, similarity = "cosine", staticmethod(cos_sim)

        def encode_query(self, texts, **_):
            return torch.from_numpy(queries[[int(text) for text in texts]])

        def encode_document(self, texts, **_):
            return torch.from_numpy(corpus[[int(text) for text in texts]])

        def set_evaluation_metrics(self, *_, **__):
            """Does nothing, as there is no model card."""

    model = Model()
    model.model_card_data = model
    torch.set_num_threads(THREADS)
    evaluator = evaluation.InformationRetrievalEvaluator(
        {f"q{i}": str(i) for i in range(len(queries))},
        {f"d{i}": str(i) for i in range(len(corpus))},
        {f"q{i}": {f"d{row}"} for i, row in enumerate(relevant)},
        write_csv=False,
        corpus_chunk_size=CHUNK,
    )
    return lambda: evaluator(model)["cosine_ndcg@10"]


def our_labels(rows, labels):
    """By label_retrieval_metrics."""
    from tfembloss.evaluation import label_retrieval_metrics

    return lambda: label_retrieval_metrics(rows, labels)["map@r"]


def peer_labels(rows, labels):
    """By AccuracyCalculator."""
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    torch.set_num_threads(THREADS)
    name = "mean_average_precision_at_r"
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", name),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity(), batch_size=256),
        device=torch.device("cpu"),
    )
    x, y = torch.from_numpy(rows), torch.from_numpy(labels)
    return lambda: calculator.get_accuracy(x, y)[name]


def work(library, case):
    """Prints what one case takes, as JSON."""
    if case in QUERIES:
        make = {"ours": our_retrieval, "peer": peer_retrieval}[library]
        data = retrieval_data(QUERIES[case])
    else:
        make, data = {"ours": our_labels, "peer": peer_labels}[library], label_data()
    measure = make(*data)
    before, start = forget_the_past(), time.perf_counter()
    value = measure()
    seconds = time.perf_counter() - start
    taken = {"s": seconds, "mb": memory("VmHWM") - before, "value": float(value)}
    print(json.dumps(taken), flush=True)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="cases whose names match")
    parser.add_argument("--peer-python", help="an interpreter that has the peers")
    options = parser.parse_args()
    pythons = {"ours": sys.executable, "peer": options.peer_python or peer_python()}
    print("| embeddings given | s | MB | metric |\n|---|---:|---:|---:|")
    for case in [*QUERIES, "labels"]:
        if not re.search(options.only, case):
            continue
        found = {}
        for library, python in pythons.items():
            done = subprocess.run(
                [python, __file__, "worker", library, case],
                env=os.environ | SETTINGS,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[library] = json.loads(done.stdout.splitlines()[-1])
        columns = [
            " / ".join(f"{of[key]:{form}}" for of in found.values())
            for key, form in (("s", ".1f"), ("mb", ".0f"), ("value", ".5f"))
        ]
        print(f"| {case} | {' | '.join(columns)} |", flush=True)
    print(f"\nOurs / the peer's. {machine()}, {THREADS} threads; {', '.join(PEERS)}.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(*sys.argv[2:])
    else:
        main()
