"""Semantic search learned from texts only: no queries, no pairs, no labels.

    python examples/unlabelled.py                    # TSDAE: trains, measures: minutes
    python examples/unlabelled.py --method tension   # contrastive tension: a minute

The texts are the documents of `search_api_docs.py`: docstrings of numpy, keras, tensorflow
and tensorflow_text without their first sentences. An encoder is trained from scratch on
these texts only. Then it is evaluated as there: for a first sentence that it has not seen,
does it find the document that the sentence was taken from?
"""

import argparse
import math

from search_api_docs import (
    METRICS,
    held_out,
    make_pairs,
    print_measured,
    read_docstrings,
)


def denoising(encoder, preprocessor):
    """TSDAE: reconstructs a document from the embedding of a few of its words."""
    import tfembloss

    model = tfembloss.DenoisingAutoEncoder(encoder, preprocessor)
    return model, tfembloss.losses.DenoisingAutoEncoderLoss()


def tension(encoder, preprocessor):
    """Contrastive tension: two copies of the encoder must agree on each document."""
    import tfembloss

    model = tfembloss.ContrastiveTensionModel(encoder, preprocessor)
    return model, tfembloss.losses.ContrastiveTensionLossInBatchNegatives()


# A function that makes the model; tokens of a document, dropout, learning rate, epochs.
METHODS = {
    "tsdae": (denoising, 32, 0.1, 5e-3, 10),
    "tension": (tension, 128, 0.5, 3e-3, 6),
}


def main(method, epochs, dim):
    """Trains and evaluates the model."""
    import keras

    import tfembloss

    make_model, length, dropout, rate, default_epochs = METHODS[method]
    epochs = epochs or default_epochs
    _, queries, documents = make_pairs(read_docstrings())
    test = [row for row, query in enumerate(queries) if held_out(query)]
    print(f"{len(documents)} documents to learn from, {len(test)} queries to measure with")

    vocabulary = tfembloss.text.learn_vocabulary(documents, size=8000)
    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=dim, dropout=dropout)
    model, loss = make_model(
        encoder, tfembloss.text.TextPreprocessor(vocabulary, length, padding="longest")
    )
    steps = epochs * math.ceil(len(documents) / 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), loss
    )

    # Longer texts for search than for training.
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
