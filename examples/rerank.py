"""Search in two stages: an embedding model retrieves, a cross-encoder reranks.

    python examples/rerank.py            # minutes

The data and the embedding model are those of `search_api_docs.py`. It retrieves 50
documents for each query, and a cross-encoder, which reads a query and a document together,
sorts them anew. The cross-encoder is trained twice, on the same lists: of each training
query, its own document and some of those that the embedding model retrieves for it.

- By LambdaLoss, which compares the documents of a list, by what their order costs in NDCG.
- By binary cross-entropy, which looks at each document of a list by itself.

Both are evaluated on queries that no model has seen. The table ends with the milliseconds
that a query takes: to retrieve, and to rerank.
"""

import argparse
import time

import numpy as np
from search_api_docs import held_out, make_pairs, print_measured, read_docstrings
from synthesis import adam, make_bi_encoder, make_cross_encoder, order_anew

METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
NUM_RETRIEVED = 50


def retrieve(bi_encoder, queries, documents):
    """Returns the rows of the nearest documents of each query, `[Q, NUM_RETRIEVED]`."""
    import tfembloss

    _, hits = tfembloss.search.top_k(
        bi_encoder.predict(queries, batch_size=256, verbose=0),
        bi_encoder.predict(documents, batch_size=256, verbose=0),
        min(NUM_RETRIEVED, len(documents) - 1),
    )
    return np.asarray(hits)


def make_lists(answers, hits, length, seed=0):
    """Returns rows of documents `[Q, length]`, each query's answer first, and labels."""
    rng = np.random.default_rng(seed)
    rows = np.array([
        [answer, *rng.choice(of_query[of_query != answer], length - 1, replace=False)]
        for answer, of_query in zip(answers, hits, strict=True)
    ])  # fmt: skip
    labels = np.zeros(rows.shape, "float32")
    labels[:, 0] = 1
    return rows, labels


def losses():
    """Returns the losses to compare, by their titles."""
    import keras

    import tfembloss

    return {
        "LambdaLoss": tfembloss.losses.LambdaLoss(),
        "cross-entropy": keras.losses.BinaryCrossentropy(from_logits=True),
    }


def main(epochs, cross_epochs, dim, length):
    """Trains and evaluates all models; returns the metrics by title."""
    import keras

    import tfembloss

    _, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    train = [row for row, query in enumerate(queries) if not held_out(query)]
    test_queries = [queries[row] for row in test]
    train_queries = [queries[row] for row in train]
    texts = [*train_queries, *(documents[row] for row in train)]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=8000)

    print(f"\n1. An embedding model, on {len(train)} pairs")
    keras.utils.set_random_seed(0)
    bi_encoder = make_bi_encoder(vocabulary, dim, dropout=0.0)
    bi_encoder.compile(
        adam(7e-3, len(train), 256, epochs),
        tfembloss.losses.MultipleNegativesRankingLoss(),
    )
    bi_encoder.fit(
        (train_queries, [documents[row] for row in train]), batch_size=256, epochs=epochs
    )
    start = time.perf_counter()
    hits = retrieve(bi_encoder, test_queries, documents)
    times = {"embedding model": time.perf_counter() - start}
    measure = tfembloss.evaluation.retrieval_metrics
    results = {"embedding model": measure(hits[:, :10], test, METRICS)}

    of_training = retrieve(bi_encoder, train_queries, documents)
    rows, labels = make_lists(train, of_training, length)
    lists = np.array(documents, object)[rows]
    for number, (title, loss) in enumerate(losses().items(), 2):
        print(f"\n{number}. A cross-encoder by {title}, on {len(lists)} lists of {length}")
        keras.utils.set_random_seed(0)
        cross_encoder = make_cross_encoder(vocabulary, bi_encoder)
        cross_encoder.compile(adam(1e-3, len(train), 16, cross_epochs), loss)
        cross_encoder.fit(
            (train_queries, lists), labels, batch_size=16, epochs=cross_epochs
        )
        start = time.perf_counter()
        ordered = order_anew(cross_encoder, test_queries, documents, hits)
        times[f"reranked, {title}"] = time.perf_counter() - start
        results[f"reranked, {title}"] = measure(ordered[:, :10], test, METRICS)

    print_measured(test_queries, documents, test, results)
    print(f"\nMilliseconds of a query, with all {len(documents)} documents to embed once")
    for title, seconds in times.items():
        print(f"{title:25}{1000 * seconds / len(test):8.1f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="of the embedding model")
    parser.add_argument("--cross-epochs", type=int, default=1)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--length", type=int, default=6, help="of a training list")
    arguments = parser.parse_args()
    main(**vars(arguments))
