"""Embeddings that separate classes of articles not seen in training.

    python examples/article_labels.py                     # trains, measures, draws: minutes
    python examples/article_labels.py --loss SupConLoss   # with another loss on labels

The articles are the docstrings of numpy, keras, tensorflow and tensorflow_text, the labels
are the areas that they come from: `keras.layers`, `tensorflow.data`, `numpy.ma`, ... Five
whole areas are held out. An encoder is trained from scratch on the labels of the others
only, and is evaluated and plotted on the articles of the five.
"""

import argparse
import collections
import importlib.util
import pathlib
import re

import numpy as np
from search_api_docs import (
    BM25,
    SAVED_MODELS,
    make_pairs,
    read_docstrings,
)

NUM_HELD_OUT = 5
MIN_ARTICLES = 20  # of an area; smaller ones are left out
COLUMNS = {"precision@1": "recall@1", "precision@r": "R-precision", "map@r": "MAP@R"}


# The data.


def area(name):
    """Returns the area of a full name: `keras.layers` for `keras.src.layers.core.Dense`."""
    package, *modules = name.split(".")
    return f"{package}.{next(part for part in modules if part not in ('src', 'python'))}"


def labelled_articles():
    """Returns a list of articles, and a list of the areas that they come from."""
    names, sentences, documents = make_pairs(read_docstrings())
    sizes = collections.Counter(map(area, names))
    articles, labels = [], []
    for name, sentence, document in zip(names, sentences, documents, strict=True):
        if sizes[area(name)] >= MIN_ARTICLES:
            text = f"{sentence} {document.removeprefix(name)}"
            articles.append(without_names(text, sizes))
            labels.append(area(name))
    return articles, labels


def without_names(text, areas):
    """Removes what reveals a text's area: names with dots, and words of areas' names.

    The words of all areas' names are removed from every text, so that it does not reveal
    anything which of them are missing.
    """
    text = re.sub(r"\w+(\.\w+)+", " ", text)
    words = {"tf", "np"} | {word for name in areas for word in re.split(r"[._]", name)}
    words |= {word.removesuffix("s") for word in words}
    return re.sub(rf"(?i)\b({'|'.join(map(re.escape, sorted(words)))})\b", " ", text)


def held_out_areas(labels):
    """Returns the middle one of each fifth of the areas, in alphabetical order."""
    areas = sorted(set(labels))
    step = len(areas) // NUM_HELD_OUT
    return areas[step // 2 :: step][:NUM_HELD_OUT]


# Measuring and drawing.


def without_training(articles, labels):
    """Evaluates BM25 with each article as the query, and random embeddings."""
    import tfembloss

    index, labels = BM25(articles), np.array(labels)
    num_articles = len(articles)
    rankings = [index.rank(article, num_articles) for article in articles]
    metrics = tfembloss.evaluation.LABEL_METRICS
    bm25 = tfembloss.evaluation.retrieval_metrics(
        [ranking[ranking != row] for row, ranking in enumerate(rankings)],
        [
            np.setdiff1d(np.flatnonzero(labels == labels[row]), row)
            for row in range(num_articles)
        ],
        metrics,
    )
    random = np.random.default_rng(0).normal(size=[num_articles, 64])
    chance = tfembloss.evaluation.label_retrieval_metrics(random, labels, metrics)
    return {"chance": chance, "BM25": bm25}


def draw(embeddings, labels, path):
    """Plots the first two principal components of embeddings, in one panel for each."""
    import keras
    from matplotlib.figure import Figure

    from tfembloss.evaluation import plot_embeddings

    width = max(3.4, 12 / len(embeddings))
    figure = Figure(figsize=(width * len(embeddings), width), layout="constrained")
    axes = figure.subplots(1, len(embeddings))
    for axis, (title, points) in zip(axes, embeddings.items(), strict=True):
        plot_embeddings(keras.utils.normalize(points), labels, ax=axis)
        axis.set_title(f"{title}\n{axis.get_title()}", fontsize="medium")
        if axis is not axes[-1]:
            axis.get_legend().remove()  # the last one's is of all
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


# Training.


def main(arguments):
    """Trains, evaluates and plots the model."""
    import keras

    import tfembloss

    all_articles, all_labels = labelled_articles()
    held_out = held_out_areas(all_labels)
    articles, labels, test_articles, test_labels = [], [], [], []
    for article, label in zip(all_articles, all_labels, strict=True):
        (test_articles if label in held_out else articles).append(article)
        (test_labels if label in held_out else labels).append(label)
    for title, of_part in {"Training": labels, "Held out": test_labels}.items():
        sizes = sorted(collections.Counter(of_part).items())
        listed = ", ".join(f"{name} ({size})" for name, size in sizes)
        print(f"\n{title}: {len(of_part)} articles of {len(sizes)} areas: {listed}")

    vocabulary = tfembloss.text.learn_vocabulary(articles, size=8000)
    keras.utils.set_random_seed(arguments.seed)
    model = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(vocabulary), dropout=0.5),
        tfembloss.text.TextPreprocessor(vocabulary, sequence_length=256, padding="longest"),
    )
    batches = tfembloss.data.balanced_batches(
        articles, labels, classes_per_batch=16, items_per_class=8
    )
    if arguments.loss:
        loss = getattr(tfembloss.losses, arguments.loss)()
    else:
        miner = tfembloss.miners.TripletMarginMiner(type_of_triplets="semihard")
        loss = tfembloss.losses.TripletMarginLoss(miner=miner)
    steps = arguments.epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), loss=loss)

    evaluator = tfembloss.evaluation.LabelEvaluator(test_articles, test_labels)
    rows = without_training(test_articles, test_labels)
    rows["before"] = evaluator.evaluate(model)
    embeddings = {"before": model.predict(test_articles, batch_size=256, verbose=0)}
    model.fit(batches, epochs=arguments.epochs, callbacks=[evaluator])
    rows["after"] = evaluator.evaluate(model)
    embeddings["after"] = model.predict(test_articles, batch_size=256, verbose=0)

    print(f"\n{len(test_labels)} articles of held-out areas, each a query among the others")
    print(" " * 8 + "".join(f"{name:>13}" for name in COLUMNS.values()))
    for title, found in rows.items():
        print(f"{title:8}" + "".join(f"{found[metric]:13.3f}" for metric in COLUMNS))

    if importlib.util.find_spec("matplotlib"):
        draw(embeddings, test_labels, arguments.out)
        print(f"\nThe held-out articles before and after: {arguments.out}")
    else:
        print('\nNo picture without matplotlib: pip install ".[plot]"')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loss", help="a loss on labels, by its name in tfembloss.losses")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=SAVED_MODELS / "article-labels.png"
    )
    main(parser.parse_args())
