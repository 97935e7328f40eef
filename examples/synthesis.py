"""Distillation of a cross-encoder into a bi-encoder: hard negatives, margins, a student.

    python examples/synthesis.py            # the whole pipeline: minutes

The data are those of `search_api_docs.py`: the first sentence of a docstring is a query for
the rest of it.

1. A bi-encoder is trained on the training pairs, as there.
2. It mines hard negatives for them: documents that it finds similar, but that are wrong.
3. A cross-encoder, which reads a query and a document together, is trained to separate the
   documents from the negatives. It ranks the bi-encoder's hits better than the bi-encoder.
4. `synthesize` mines documents for each training query, and computes with the cross-encoder
   by how much the query's own document is better: margins, saved in saved_models.
5. A student, a copy of the bi-encoder, learns the margins with dot products, with which it
   is then evaluated (MarginMSELoss).

All of them are evaluated on queries that none has seen.
"""

import argparse
import hashlib
import math
import shutil

import numpy as np
from search_api_docs import (
    METRICS,
    SAVED_MODELS,
    held_out,
    make_pairs,
    print_measured,
    read_docstrings,
)

QUERY_LENGTH, DOCUMENT_LENGTH = 24, 128  # tokens that the cross-encoder reads
NUM_HITS = 20  # of the bi-encoder, which the cross-encoder reranks


def adam(rate, num_rows, batch_size, epochs):
    """Returns Adam with a cosine decay of the learning rate to 0."""
    import keras

    steps = epochs * math.ceil(num_rows / batch_size)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def make_bi_encoder(vocabulary, dim, dropout):
    """Makes a model from texts to embeddings."""
    import tfembloss

    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=dim, dropout=dropout)
    preprocessor = tfembloss.text.TextPreprocessor(vocabulary, 256, padding="longest")
    return tfembloss.EmbeddingModel(encoder, preprocessor)


def make_cross_encoder(vocabulary, bi_encoder):
    """Makes a model from pairs to scores, in which query words attend to document words.

    Parikh et al., "A Decomposable Attention Model for Natural Language Inference", 2016,
    https://arxiv.org/abs/1606.01933. Its token embeddings are initialized from the
    bi-encoder, so it trains on a CPU in minutes. With a GPU use a pretrained transformer.
    """
    import keras
    from keras import layers, ops

    import tfembloss

    trained = bi_encoder.encoder.token_embedding
    embed = layers.Embedding(trained.input_dim, trained.output_dim)
    pool = tfembloss.layers.TokenPooling(trained.input_dim, QUERY_LENGTH)

    tokens = keras.Input([None], dtype="int32")
    x = ops.normalize(layers.Dropout(0.1)(embed(tokens)), axis=-1)
    query, document = x[:, :QUERY_LENGTH], x[:, QUERY_LENGTH:]
    is_padding = ops.cast(tokens[:, None, QUERY_LENGTH:] == 0, "float32")
    cosines = ops.matmul(query, ops.transpose(document, [0, 2, 1])) - 1e3 * is_padding
    nearest = ops.maximum(ops.max(cosines, axis=-1, keepdims=True), -1)  # [B, Q, 1]
    likest = ops.matmul(ops.softmax(10 * cosines), document)  # [B, Q, D]
    compared = layers.Dense(128, activation="gelu")(
        ops.concatenate([query * likest, query, nearest], axis=-1)
    )
    of_words = ops.concatenate([layers.Dropout(0.1)(compared), 10 * nearest], axis=-1)
    pooled = pool(tokens[:, :QUERY_LENGTH], of_words)
    hidden = layers.Dense(128, activation="gelu")(pooled)
    encoder = keras.Model(tokens, ops.concatenate([hidden, pooled], axis=-1))
    embed.set_weights(trained.get_weights())

    preprocessor = tfembloss.text.TextPairPreprocessor(
        vocabulary, QUERY_LENGTH, DOCUMENT_LENGTH, padding="longest"
    )
    return tfembloss.CrossEncoder(encoder, preprocessor)


def order_anew(cross_encoder, queries, documents, hits):
    """Reranks each query's hits, rows `[Q, k]`, by the cross-encoder's scores."""
    pairs = np.repeat(queries, hits.shape[1]), np.array(documents)[hits.ravel()]
    scores = cross_encoder.predict(pairs, batch_size=256, verbose=0).reshape(hits.shape)
    return np.take_along_axis(hits, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def make_student(vocabulary, bi_encoder, triplets):
    """Copies the bi-encoder, with embeddings of constant length.

    So dot products rank as cosines did, and at this length the margins are as large as the
    teacher's on average. Learning the scale would take longer than learning the rest.
    """
    import keras

    import tfembloss

    texts, margins = next(iter(triplets.shuffle(len(triplets), seed=0).batch(4096)))
    query, similar, irrelevant = (
        keras.utils.normalize(bi_encoder.predict(x, verbose=0)) for x in texts
    )
    cosines = np.sum(query * (similar - irrelevant), axis=1)
    length = math.sqrt(np.mean(margins) / np.mean(cosines))

    copy = make_bi_encoder(vocabulary, query.shape[1], dropout=0.1)
    copy.encoder.set_weights(bi_encoder.encoder.get_weights())
    tokens = keras.Input([None], dtype="int32")
    unit = keras.layers.UnitNormalization()(copy.encoder(tokens))
    encoder = keras.Model(tokens, keras.layers.Rescaling(length)(unit))
    return tfembloss.EmbeddingModel(encoder, copy.preprocessor)


def digest(*weights):
    """Returns a short hash of a teacher's and a miner's weights."""
    hashed = hashlib.sha1()
    for array in weights:
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:12]


def main(epochs, cross_epochs, student_epochs, dim):
    """Runs all steps, and evaluates the models."""
    import keras

    import tfembloss

    _, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    train = [row for row, query in enumerate(queries) if not held_out(query)]
    test_queries = [queries[row] for row in test]
    pairs = [queries[row] for row in train], [documents[row] for row in train]
    vocabulary = tfembloss.text.learn_vocabulary([*pairs[0], *pairs[1]], size=8000)
    measure = {
        distance: tfembloss.evaluation.RetrievalEvaluator(
            test_queries, documents, test, METRICS, distance
        ).evaluate
        for distance in ("cosine", "dot")
    }
    results = {}

    print(f"\n1. A bi-encoder, on {len(train)} pairs")
    keras.utils.set_random_seed(0)
    bi_encoder = make_bi_encoder(vocabulary, dim, dropout=0.5)
    bi_encoder.compile(
        adam(7e-3, len(train), 256, epochs),
        tfembloss.losses.MultipleNegativesRankingLoss(),
    )
    bi_encoder.fit(pairs, batch_size=256, epochs=epochs)
    results["bi-encoder"] = measure["cosine"](bi_encoder)

    print("\n2. Hard negatives")
    mined = tfembloss.synthesis.mine_hard_negatives(
        pairs[0], documents, pairs[1], bi_encoder, num_negatives=4, sampling="random"
    )

    print("\n3. A cross-encoder")
    x, labels = mined.pairs()
    cross_encoder = make_cross_encoder(vocabulary, bi_encoder)
    cross_encoder.compile(
        adam(1e-3, len(labels), 64, cross_epochs),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(from_logits=True)],
    )
    cross_encoder.fit(x, labels, batch_size=64, epochs=cross_epochs)
    _, hits = tfembloss.search.top_k(
        bi_encoder.predict(test_queries, verbose=0),
        bi_encoder.predict(documents, batch_size=256, verbose=0),
        NUM_HITS,
    )
    ordered = order_anew(cross_encoder, test_queries, documents, hits)
    results["its hits by the cross-encoder"] = tfembloss.evaluation.retrieval_metrics(
        ordered[:, :10], test, METRICS
    )

    print("\n4. Margins")
    weights = [*bi_encoder.get_weights(), *cross_encoder.get_weights()]
    folder = SAVED_MODELS / f"synthesis-{digest(*weights)}"
    for other in SAVED_MODELS.glob("synthesis-*"):
        if other != folder:
            shutil.rmtree(other)  # margins of earlier models
    triplets = tfembloss.synthesis.synthesize(
        *(pairs[0], documents, bi_encoder, cross_encoder, folder), positives=pairs[1]
    )

    print(f"\n5. A student, on {len(triplets)} triplets")
    student = make_student(vocabulary, bi_encoder, triplets)
    results["student before"] = measure["dot"](student)
    student.compile(
        adam(5e-4, len(triplets), 64, student_epochs), tfembloss.losses.MarginMSELoss()
    )
    student.fit(triplets.shuffle(len(triplets)).batch(64), epochs=student_epochs)
    results["student after"] = measure["dot"](student)

    print_measured(test_queries, documents, test, results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5, help="of the bi-encoder")
    parser.add_argument("--cross-epochs", type=int, default=3)
    parser.add_argument("--student-epochs", type=int, default=1)
    parser.add_argument("--dim", type=int, default=384)
    arguments = parser.parse_args()
    main(
        arguments.epochs,
        arguments.cross_epochs,
        arguments.student_epochs,
        arguments.dim,
    )
