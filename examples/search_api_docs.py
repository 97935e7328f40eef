"""Semantic search over the API documentation of the packages that tfembloss installs.

    python examples/search_api_docs.py             # trains, measures, exports: a minute
    python examples/search_api_docs.py --ask "join two tensors along an axis"   # seconds

Reads the docstrings of numpy, keras, tensorflow and tensorflow_text from their installed
files. A query is a docstring's first sentence; its document is the object's name and the
rest of the docstring. An encoder is trained from scratch on these pairs only. It is
evaluated on queries that it has not seen, among all documents, and compared with BM25.
"""

import argparse
import ast
import collections
import hashlib
import importlib.util
import math
import pathlib
import re
import subprocess
import sys

import numpy as np

PACKAGES = ("numpy", "keras", "tensorflow", "tensorflow_text")
SAVED_MODELS = pathlib.Path(__file__).resolve().parent.parent / "saved_models"
MODEL = SAVED_MODELS / "search-api-docs"
INDEX = SAVED_MODELS / "search-api-docs-index.npz"
PAGE = SAVED_MODELS / "search-api-docs.html"
METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
SAMPLE_QUERIES = (
    "join two tensors along an axis",
    "stop training when the validation loss no longer improves",
    "solve a system of linear equations",
    "split text into words",
    "draw random numbers from a normal distribution",
)


# The data.


def read_docstrings():
    """Reads name and docstring of every public class and function outside of tests.

    They are parsed with `ast`, so nothing is imported or executed.
    """
    import keras

    files = []
    for package in PACKAGES:
        root = pathlib.Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(root.rglob("*.py")):
            module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            if not _left_out(f"{module}."):
                files.append((path, module))
    print(f"Reading {len(files)} files of {', '.join(PACKAGES)}")
    progress, found = keras.utils.Progbar(len(files), interval=1), []
    for path, module in files:
        found += _docstrings(ast.parse(path.read_bytes()), module)
        progress.add(1)
    return found


def _docstrings(node, name):
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        child_name = f"{name}.{child.name}"
        if _left_out(child_name):
            continue
        if docstring := ast.get_docstring(child):
            yield child_name, docstring
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, child_name)


def _left_out(name):
    """Whether a name is private, or of tests or test_utils; but not latest or fastest."""
    return re.search(r"(^|\.)_|(^|[._])test(s|ing)?([._]|$)", name)


def make_pairs(docstrings):
    """Returns names, queries and documents, without duplicate queries.

    Most duplicates are copies: Keras's documentation in TensorFlow, wrappers of ops.
    """
    names, queries, documents, seen = [], [], [], set()
    for name, docstring in docstrings:
        paragraph = docstring.strip().split("\n\n", 1)[0]
        sentence = re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
        query = " ".join(sentence.split())
        rest = " ".join(docstring.strip()[len(sentence) :].split())
        too_short = len(query.split()) < 3 or len(rest.split()) < 3
        if not too_short and query.lower() not in seen:
            seen.add(query.lower())
            names.append(name)
            queries.append(query)
            documents.append(f"{name} {rest}")
    return names, queries, documents


def held_out(query):
    """Returns whether a query is held out for evaluation: one in eight, by its hash."""
    return hashlib.sha1(query.lower().encode()).digest()[0] % 8 == 0


# The baseline.


class BM25:
    """Okapi BM25 over lower-cased words, k1 = 1.2, b = 0.75."""

    def __init__(self, documents, k1=1.2, b=0.75):
        words = [self._words(document) for document in documents]
        lengths = np.array([len(w) for w in words])
        norms = k1 * (1 - b + b * lengths / lengths.mean())
        postings = collections.defaultdict(list)
        for row, document in enumerate(words):
            for word, times in collections.Counter(document).items():
                postings[word].append((row, times))
        self.num_documents, self.scores = len(documents), {}
        for word, posting in postings.items():
            rows, times = np.array(posting).T
            rarity = math.log(1 + (len(words) - len(rows) + 0.5) / (len(rows) + 0.5))
            self.scores[word] = rows, rarity * times * (k1 + 1) / (times + norms[rows])

    def score(self, query):
        """Returns the scores of all documents."""
        scores = np.zeros(self.num_documents)
        for word in self._words(query):
            if word in self.scores:
                rows, gains = self.scores[word]
                scores[rows] += gains
        return scores

    def rank(self, query, k):
        """Returns the k best rows, best first."""
        return np.argsort(-self.score(query), kind="stable")[:k]

    @staticmethod
    def _words(text):
        return re.findall(r"[a-z0-9]+", text.lower())


def print_measured(queries, documents, relevant, rows):
    """Prints a table of rows, each a dict of `METRICS`, with BM25 as the first."""
    import tfembloss

    bm25 = BM25(documents)
    ranked = [bm25.rank(query, 10) for query in queries]
    baseline = tfembloss.evaluation.retrieval_metrics(ranked, relevant, METRICS)
    rows = {"BM25": baseline, **rows}
    width = max(map(len, rows)) + 1
    print(f"\n{len(queries)} held-out queries among {len(documents)} documents")
    print(" " * width + "".join(f"{metric:>11}" for metric in METRICS))
    for title, row in rows.items():
        print(f"{title:{width}}" + "".join(f"{row[metric]:11.3f}" for metric in METRICS))


# Training.


def train_and_export(epochs, dim):
    """Trains, evaluates and exports the model."""
    import keras

    import tfembloss

    names, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    train = [row for row, query in enumerate(queries) if not held_out(query)]
    print(
        f"{len(documents)} documents; {len(train)} queries train, {len(test)} are held out"
    )

    texts = [queries[row] for row in train]
    texts += [documents[row] for row in train]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=8000)

    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=dim, dropout=0.0)
    preprocessor = tfembloss.text.TextPreprocessor(
        vocabulary, sequence_length=256, padding="longest"
    )
    model = tfembloss.EmbeddingModel(encoder, preprocessor)
    steps = epochs * math.ceil(len(train) / 256)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(7e-3, steps)),
        loss=tfembloss.losses.MultipleNegativesRankingLoss(),
    )

    test_queries = [queries[row] for row in test]
    evaluator = tfembloss.evaluation.RetrievalEvaluator(
        test_queries, documents, test, METRICS
    )
    before = evaluator.evaluate(model)
    model.fit(
        ([queries[row] for row in train], [documents[row] for row in train]),
        batch_size=256,
        epochs=epochs,
    )
    after = evaluator.evaluate(model)
    print_measured(test_queries, documents, test, {"before": before, "after": after})

    tfembloss.export_encoder(model, MODEL)
    embeddings = keras.utils.normalize(model.predict(documents, batch_size=256, verbose=0))
    distances, nearest = tfembloss.search.top_k(
        model.predict(test_queries, batch_size=256, verbose=0), embeddings, k=10
    )
    beginnings = [document[:300] for document in documents]
    tfembloss.evaluation.nearest_neighbors_page(
        PAGE, test_queries, beginnings, nearest, test, distances, "Held-out queries"
    )
    print(f"\nHeld-out queries and what they find, to look through: {PAGE}")
    np.savez(
        INDEX,
        names=names,
        sentences=queries,
        embeddings=embeddings.astype("float16"),
    )
    print(
        f"\nExported to {MODEL.relative_to(SAVED_MODELS.parent)}. A fresh process answers:"
    )


# Serving.


def answer(queries):
    """Answers queries with the exported model and the index, without keras or tfembloss."""
    if not MODEL.exists() or not INDEX.exists():
        sys.exit("There is no exported model yet: run this script without --ask first.")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  the tokenizer's ops

    model = tf.saved_model.load(str(MODEL))
    index = np.load(INDEX)
    embed = model.signatures["serving_default"]
    embeddings = embed(text=tf.constant(queries))["embedding"].numpy()
    similarities = embeddings @ index["embeddings"].astype("float32").T
    for query, scores in zip(queries, similarities, strict=True):
        print(f"\n{query}")
        for row in np.argsort(-scores)[:3]:
            print(f"  {scores[row]:.2f}  {index['names'][row]}: {index['sentences'][row]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--ask", nargs="+", metavar="QUERY", help="answer, without training"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dim", type=int, default=384)
    arguments = parser.parse_args()
    if arguments.ask:
        answer(arguments.ask)
    else:
        train_and_export(arguments.epochs, arguments.dim)
        subprocess.run([sys.executable, __file__, "--ask", *SAMPLE_QUERIES], check=True)
