"""Embeddings of images that separate digits not seen in training.

    python examples/image_labels.py                   # trains, measures, draws: a minute
    python examples/image_labels.py --held-out 4 9    # with other digits held out
    python examples/image_labels.py --loss all        # a table of all losses

The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels. Two digits are held
out. An encoder is trained on the labels of the other eight, once each with ArcFace, CosFace
and sub-center ArcFace, and is evaluated and plotted on the images of the two.
"""

import argparse
import importlib.util
import pathlib
import sys

import compare_losses
import numpy as np
from article_labels import draw
from search_api_docs import SAVED_MODELS

COLUMNS = {"precision@1": "recall@1", "map@r": "MAP@R"}
HELD_OUT = (8, 9)  # simply the last two
SCALE = 16.0  # 64 is for thousands of classes: with few, the loss vanishes too soon


# The data.


def read_digits():
    """Reads images `[N, 8, 8, 1]` from 0 to 1, and the digit of each `[N]`."""
    if not importlib.util.find_spec("sklearn"):
        sys.exit('The images come with scikit-learn: pip install ".[examples]"')
    from sklearn import datasets

    found = datasets.load_digits()
    return (found.images / 16).astype("float32")[..., None], found.target


def image_encoder(dim=64, width=16):
    """Makes a small convolutional network from images `[B, 8, 8, 1]` to `[B, dim]`."""
    import keras
    from keras import layers

    encoder = keras.Sequential([keras.Input([8, 8, 1], name="image")])
    # By up to a pixel, in training only: the position of a digit is irrelevant.
    encoder.add(layers.RandomTranslation(0.125, 0.125, fill_mode="constant"))
    for factor in (1, 2, 2):
        encoder.add(layers.Conv2D(factor * width, 3, padding="same", use_bias=False))
        encoder.add(layers.BatchNormalization(momentum=0.9))
        encoder.add(layers.Activation("relu"))
        if factor == 1:
            encoder.add(layers.MaxPooling2D())
    encoder.add(layers.Flatten())
    encoder.add(layers.Dense(dim))
    return encoder


def split(images, digits, held_out):
    """Splits off the held-out digits; the labels of the others are numbered from 0."""
    unseen = np.isin(digits, held_out)
    _, labels = np.unique(digits[~unseen], return_inverse=True)
    return (images[~unseen], labels), (images[unseen], digits[unseen])


def turned(images, labels):
    """Rotates the images by quarter turns; each rotation of a digit is a separate class.

    With eight classes only, the encoder would learn to separate just these eight and to
    discard all other features.
    """
    return (
        np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(4)]),
        np.concatenate([4 * labels + turn for turn in range(4)]),
    )


# Training and measuring.


def losses(num_classes):
    """Returns each loss with its head, by name."""
    from tfembloss.layers import CosineHead
    from tfembloss.losses import ArcFaceLoss, CosFaceLoss

    three_faces = CosineHead(num_classes, sub_centers=3)
    return {
        "ArcFace": (ArcFaceLoss(scale=SCALE), CosineHead(num_classes)),
        "CosFace": (CosFaceLoss(scale=SCALE), CosineHead(num_classes)),
        "sub-center ArcFace": (ArcFaceLoss(scale=SCALE), three_faces),
    }


def train(model, loss, images, labels, epochs, evaluator, batch_size=64):
    """Trains encoder and head, the head with a separate learning rate, and measures."""
    import keras

    steps = epochs * -(-len(images) // batch_size)
    of_encoder, of_head = (
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
        for rate in (2e-3, 1e-2)
    )
    model.compile(of_encoder, loss, head_optimizer=of_head)
    model.fit(
        images,
        labels,
        batch_size=batch_size,
        epochs=epochs,
        callbacks=[evaluator],
        verbose=2,
    )


def main(arguments):
    """Trains, evaluates and plots all losses."""
    import keras

    import tfembloss

    seen, (images, digits) = split(*read_digits(), arguments.held_out)
    names = " and ".join(map(str, sorted(set(digits))))
    print(f"{len(seen[1])} images train; held out are {len(digits)}, of the digits {names}")

    embeddings = {"pixels": images.reshape(len(images), -1)}
    # How well each image finds the others of its digit, after every epoch.
    evaluator = tfembloss.evaluation.LabelEvaluator(images, digits, list(COLUMNS))
    seen = turned(*seen)
    if arguments.loss:
        every = compare_losses.names()
        chosen = every if arguments.loss == ["all"] else arguments.loss
        if unknown := set(chosen) - set(every):
            sys.exit(
                f"Unknown losses: {sorted(unknown)}. Expected all, or some of: {every}"
            )
        compare_losses.compare(chosen, image_encoder, seen, images, digits)
        return
    for name, (loss, head) in losses(len(set(seen[1]))).items():
        print(f"\n{name}")
        keras.utils.set_random_seed(arguments.seed)
        model = tfembloss.EmbeddingClassifier(image_encoder(), head)
        before = model.predict(images, batch_size=256, verbose=0)
        embeddings.setdefault("before", before)  # the same for all
        train(model, loss, *seen, arguments.epochs, evaluator)
        embeddings[name] = model.predict(images, batch_size=256, verbose=0)

    print(f"\n{len(digits)} images of the digits {names}, each a query among the others")
    print(" " * 20 + "".join(f"{name:>11}" for name in COLUMNS.values()))
    for title, points in embeddings.items():
        found = tfembloss.evaluation.label_retrieval_metrics(points, digits, list(COLUMNS))
        print(f"{title:20}" + "".join(f"{found[metric]:11.3f}" for metric in COLUMNS))

    if importlib.util.find_spec("matplotlib"):
        draw(embeddings, digits, arguments.out)
        print(f"\nThe held-out images, before and after: {arguments.out}")
    else:
        print('\nNo picture without matplotlib: pip install ".[plot]"')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--held-out", type=int, nargs=2, choices=range(10), default=HELD_OUT
    )
    parser.add_argument(
        "--loss", nargs="+", metavar="NAME", help="all, or names: a table of these losses"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=SAVED_MODELS / "image-labels.png"
    )
    main(parser.parse_args())
