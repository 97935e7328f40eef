"""One encoder trained on three datasets at once, against each of them alone.

    python examples/mixture.py                          # a few minutes
    python examples/mixture.py --mixing round_robin     # other shares of the steps

The documents are the docstrings of numpy, keras, tensorflow and tensorflow_text. Three
tasks train the same encoder from the same start, each with its own data and loss:

- pairs: a docstring's first sentence and the rest of it, in-batch negatives;
- areas: the area that a document is from (`keras.layers`, ...), a loss on labels; what
  names it is removed from the document;
- teacher: BM25's scores of a query and documents, of which the order is learned.

Each row of the table is one training. It is measured as a search, on queries that were held
out, and by the areas of the held-out documents.
"""

import argparse
import collections
import math

import numpy as np
from article_labels import MIN_ARTICLES, area, without_names
from search_api_docs import BM25, held_out, make_pairs, read_docstrings

BATCH_SIZE = 256
WEIGHTS = {"pairs": 1.0, "areas": 0.1, "teacher": 0.02}
METRICS = {"mrr@10": "MRR@10", "recall@10": "recall@10", "map@r": "MAP@R (areas)"}


# The data of the tasks.


def scored_pairs(queries, documents, num_documents=2, seed=0):
    """Returns queries, documents and BM25's scores: the best documents and random ones.

    The scores of a query are divided by its best one, so that they compare across queries.
    """
    bm25, rng = BM25(documents), np.random.default_rng(seed)
    texts, others, scores = [], [], []
    for query in queries:
        found = bm25.score(query)
        if not found.max():
            continue
        best = np.argsort(-found, kind="stable")[: num_documents // 2]
        some = rng.integers(len(documents), size=num_documents - len(best))
        for row in np.concatenate([best, some]):
            texts.append(query)
            others.append(documents[row])
            scores.append(found[row] / found.max())
    return texts, others, np.array(scores, "float32")


def labelled(names, documents, sizes):
    """Returns documents of large areas, without what names these, and the areas."""
    rows = [row for row, name in enumerate(names) if sizes[area(name)] >= MIN_ARTICLES]
    articles = [without_names(documents[row], sizes) for row in rows]
    return articles, [area(names[row]) for row in rows]


# Training.


def make_model(tasks, vocabulary, dim):
    """Returns a model of some of the tasks, from the same start for all."""
    import keras

    import tfembloss

    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=dim, dropout=0.0)
    preprocessor = tfembloss.text.TextPreprocessor(
        vocabulary, sequence_length=128, padding="longest"
    )
    return tfembloss.MultiTaskModel(
        {name: tfembloss.EmbeddingModel(encoder, preprocessor) for name in tasks}
    )


def train(data, losses, vocabulary, evaluators, arguments):
    """Trains on some tasks; returns what the evaluators measure."""
    import keras

    model = make_model(data, vocabulary, arguments.dim)
    x = {name: task["x"] for name, task in data.items()}
    y = {name: task["y"] for name, task in data.items() if "y" in task}
    sizes = [len(task["y"] if "y" in task else task["x"][0]) for task in data.values()]
    batches = [math.ceil(size / BATCH_SIZE) for size in sizes]
    in_turn = arguments.mixing == "round_robin"
    steps = arguments.epochs * (len(data) * max(batches) if in_turn else sum(batches))
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps)),
        loss={name: losses[name] for name in data},
        loss_weights={name: arguments.weights[name] for name in data},
    )
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=arguments.epochs, mixing=arguments.mixing)
    return {k: v for evaluator in evaluators for k, v in evaluator.evaluate(model).items()}


def main(arguments):
    """Trains on each task alone and on all of them, and prints a table."""
    import tfembloss

    names, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    training = [row for row, query in enumerate(queries) if not held_out(query)]

    def some(texts, rows):
        return [texts[row] for row in rows]

    train_queries, train_documents = some(queries, training), some(documents, training)
    sizes = collections.Counter(map(area, names))
    articles, areas = labelled(some(names, training), train_documents, sizes)
    texts, others, scores = scored_pairs(train_queries, train_documents)
    data = {
        "pairs": {"x": (train_queries, train_documents)},
        "areas": {"x": articles, "y": areas},
        "teacher": {"x": (texts, others), "y": scores},
    }
    losses = {
        "pairs": tfembloss.losses.MultipleNegativesRankingLoss(),
        "areas": tfembloss.losses.SupConLoss(),
        "teacher": tfembloss.losses.CoSENTLoss(),
    }
    vocabulary = tfembloss.text.learn_vocabulary(train_queries + train_documents, size=8000)
    test_articles, test_areas = labelled(some(names, test), some(documents, test), sizes)
    evaluators = [
        tfembloss.evaluation.RetrievalEvaluator(
            some(queries, test), documents, test, ["mrr@10", "recall@10"]
        ),
        tfembloss.evaluation.LabelEvaluator(test_articles, test_areas, metrics=["map@r"]),
    ]
    results = {}
    for tasks in (["pairs"], ["areas"], ["teacher"], list(data)):
        title = " + ".join(tasks)
        print(f"\nTraining on {title}")
        of_tasks = {name: data[name] for name in tasks}
        results[title] = train(of_tasks, losses, vocabulary, evaluators, arguments)

    width = max(map(len, results)) + 1
    print(f"\n{len(test)} held-out queries among {len(documents)} documents")
    print(" " * width + "".join(f"{title:>15}" for title in METRICS.values()))
    for title, found in results.items():
        print(f"{title:{width}}" + "".join(f"{found[metric]:15.3f}" for metric in METRICS))


def weights(text):
    """Parses `areas=0.5,teacher=0`, the others as they are by default."""
    given = dict(part.split("=") for part in text.split(",") if part)
    return {**WEIGHTS, **{name: float(weight) for name, weight in given.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument(
        "--mixing", default="proportional", choices=["proportional", "round_robin"]
    )
    parser.add_argument("--weights", type=weights, default=WEIGHTS)
    main(parser.parse_args())
