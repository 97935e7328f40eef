"""Semantic search that has learned from texts alone: no queries, no pairs, no labels.

    python examples/unlabelled.py                    # TSDAE: trains, measures: minutes
    python examples/unlabelled.py --method tension   # contrastive tension: a minute

The texts are the documents of `search_api_docs.py`: docstrings of numpy, keras, tensorflow
and tensorflow_text without their first sentences. An encoder learns from them, from nothing
else. Then it is measured as there: for a first sentence that it has not seen, does it find
the document that it was taken from?
"""

import argparse
import math

from search_api_docs import (
    METRICS,
    cached_vocabulary,
    held_out,
    make_pairs,
    print_measured,
    read_docstrings,
)


def denoising(encoder, preprocessor):
    """TSDAE: tells a document from its embedding without most of its words."""
    import tfembloss

    model = tfembloss.DenoisingAutoEncoder(encoder, preprocessor)
    return model, tfembloss.losses.DenoisingAutoEncoderLoss()


def tension(encoder, preprocessor):
    """Two copies that see a document through dropouts of their own have to agree on it."""
    import tfembloss

    model = tfembloss.ContrastiveTensionModel(encoder, preprocessor)
    return model, tfembloss.losses.ContrastiveTensionLossInBatchNegatives()


# How to make the model; tokens of a document, dropout, rate, epochs.
METHODS = {
    "tsdae": (denoising, 32, 0.1, 5e-3, 10),
    "tension": (tension, 128, 0.5, 3e-3, 6),
}


def main(method, epochs, dim):
    """Trains, measures."""
    import keras

    import tfembloss

    make_model, length, dropout, rate, default_epochs = METHODS[method]
    epochs = epochs or default_epochs
    _, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    print(f"{len(documents)} documents to learn from, {len(test)} queries to measure with")

    vocabulary = cached_vocabulary(documents, size=8000)
    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=dim, dropout=dropout)
    model, loss = make_model(
        encoder, tfembloss.text.TextPreprocessor(vocabulary, length, padding="longest")
    )
    steps = epochs * math.ceil(len(documents) / 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), loss
    )

    # To search with, longer texts than to learn from.
    search = tfembloss.EmbeddingModel(
        encoder, tfembloss.text.TextPreprocessor(vocabulary, 256, padding="longest")
    )
    test_queries = [queries[row] for row in test]
    evaluator = tfembloss.evaluation.RetrievalEvaluator(
        test_queries, documents, test, METRICS
    )
    before = evaluator.evaluate(search)
    model.fit(documents, batch_size=64, epochs=epochs)
    after = evaluator.evaluate(search)
    print_measured(test_queries, documents, test, {"before": before, "after": after})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", choices=METHODS, default="tsdae")
    parser.add_argument("--epochs", type=int, help="10 for tsdae, 6 for tension")
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    main(arguments.method, arguments.epochs, arguments.dim)
