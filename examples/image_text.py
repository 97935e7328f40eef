"""A small CLIP: images and their captions in one embedding space.

    python examples/image_text.py                  # trains, measures, exports: a minute
    python examples/image_text.py --loss siglip    # a sigmoid per pair, no softmax
    python examples/image_text.py --ask "a nine in pencil"    # seconds, without training

The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; the captions name
the digit in eight wordings. An image encoder and a text encoder, one encoder per modality,
are trained from scratch on these pairs only. They are evaluated on the handwriting of
people, and on wordings, that they have not seen: which of ten captions is an image's?
"""

import argparse
import importlib.util
import math
import pathlib
import subprocess
import sys

import numpy as np
from image_labels import image_encoder, read_digits
from search_api_docs import SAVED_MODELS

# The images are ordered by sheet, and those of the last three sheets are held out. The same
# person's handwriting on both sides would make the task look easier than it is.
FIRST_HELD_OUT = 1415
WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
WORDINGS = (
    "a handwritten {word}",
    "the digit {digit}",
    "number {word}, written by hand",
    "a small picture of {digit}",
    "this is a {word}",
    "the numeral {digit} in black ink",
    "a scan of the number {word}",
    "{digit}",
)
HELD_OUT_WORDINGS = (
    "a photo of the digit {word}",
    "somebody wrote {digit} here",
    "what does it show? it shows a {word}",
    "figure {digit} on a white sheet",
)
TOWERS = {name: SAVED_MODELS / f"image-text-{name}" for name in ("image", "text")}
SAMPLE_QUERIES = ("a nine in pencil", "my lucky number 7", "zero", "half of six is three")


# The data.


def caption(wording, digit):
    """Returns a digit's caption in a wording: `the digit 3`."""
    return wording.format(word=WORDS[digit], digit=digit)


def every_pair(images, digits):
    """Pairs each image with a caption in each wording: images, captions, digits."""
    captions = [caption(wording, digit) for wording in WORDINGS for digit in digits]
    repeats = len(WORDINGS)
    return np.tile(images, [repeats, 1, 1, 1]), captions, np.tile(digits, repeats)


def split(images, digits):
    """Splits images and digits into those to train on and those held out."""
    train, test = slice(None, FIRST_HELD_OUT), slice(FIRST_HELD_OUT, None)
    return (images[train], digits[train]), (images[test], digits[test])


# Measuring and drawing.


def normalized(embeddings):
    """Scales embeddings to length 1, so that dot products are cosines."""
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def prompts(embed, wordings):
    """Embeds all digits in all wordings, `[wordings, 10, D]`, with length 1."""
    texts = [caption(wording, digit) for wording in wordings for digit in range(10)]
    return normalized(embed(texts)).reshape(len(wordings), 10, -1)


def accuracy(images, prompts, digits):
    """Computes how often the best of ten prompts is the right one."""
    return float(np.mean(np.argmax(images @ prompts.T, axis=1) == digits))


def measure(embed_images, embed_texts, images, digits):
    """Computes zero-shot accuracies, and the precision of a prompt's ten nearest images."""
    import tfembloss

    images = normalized(embed_images(images))
    unseen = prompts(embed_texts, HELD_OUT_WORDINGS)
    seen = prompts(embed_texts, WORDINGS)
    _, nearest = tfembloss.search.top_k(np.concatenate(unseen), images, k=10)
    relevant = [np.flatnonzero(digits == digit) for digit in range(10)] * len(unseen)
    retrieval = tfembloss.evaluation.retrieval_metrics(nearest, relevant, ["precision@10"])
    return {
        # As in CLIP: the mean of a digit's prompts is better than any single one.
        "all unseen": accuracy(images, normalized(unseen.mean(axis=0)), digits),
        "one unseen": np.mean([accuracy(images, of_one, digits) for of_one in unseen]),
        "one seen": np.mean([accuracy(images, of_one, digits) for of_one in seen]),
        **retrieval,
    }


def nearest_image(train, test):
    """Computes the accuracy of the nearest labeled image, by the cosine of the pixels."""
    import tfembloss

    pixels = [images.reshape(len(images), -1) for images, _ in (test, train)]
    _, nearest = tfembloss.search.top_k(*pixels, k=1)
    return float(np.mean(train[1][nearest[:, 0]] == test[1]))


def draw(embed_images, embed_texts, images, digits, path):
    """Draws each digit's prompt, in an unseen wording, with its ten nearest images."""
    import matplotlib

    import tfembloss

    matplotlib.use("Agg")  # draws into files, with or without a screen
    from matplotlib import pyplot

    (queries,) = prompts(embed_texts, HELD_OUT_WORDINGS[:1])
    _, nearest = tfembloss.search.top_k(queries, embed_images(images), k=10)
    figure, axes = pyplot.subplots(10, 10, figsize=(9, 7.5), layout="constrained")
    for digit, row in enumerate(axes):
        row[0].set_ylabel(
            caption(HELD_OUT_WORDINGS[0], digit), rotation=0, ha="right", va="center"
        )
        for axis, found in zip(row, nearest[digit], strict=True):
            axis.imshow(images[found, ..., 0], cmap="gray_r")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("silver" if digits[found] == digit else "red")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


# Training.


def dual_encoder(loss, vocabulary, dim=64):
    """Returns the model to train, and its loss: clip or siglip."""
    import tfembloss

    towers = {
        "image": image_encoder(dim),
        "text": tfembloss.EmbeddingModel(
            tfembloss.text.TextEncoder(len(vocabulary), dim=dim),
            tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
        ),
    }
    # The ids are the digits: a batch has many images of each, and the caption of one is
    # also correct for the others, which would be false negatives.
    if loss == "clip":
        model = tfembloss.DualEncoder(towers)
        return model, tfembloss.losses.CLIPLoss(exclude_equal_ids=True)
    model = tfembloss.DualEncoder(towers, initial_scale=10.0, initial_bias=-10.0)
    return model, tfembloss.losses.SigLIPLoss(exclude_equal_ids=True)


def train(model, loss, images, digits, epochs, learning_rate=3e-3, batch_size=128):
    """Trains the model on every image with every wording."""
    import keras

    images, captions, digits = every_pair(images, digits)
    steps = epochs * math.ceil(len(captions) / batch_size)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    return model.fit(
        {"image": images, "text": captions}, digits, batch_size=batch_size, epochs=epochs
    )


def main(arguments):
    """Trains, evaluates and exports the model, and plots what it finds."""
    import keras

    import tfembloss

    train_set, test_set = split(*read_digits())
    captions = [caption(wording, digit) for wording in WORDINGS for digit in range(10)]
    vocabulary = tfembloss.text.learn_vocabulary(captions, size=200)
    print(
        f"{len(train_set[1])} images train, each with {len(WORDINGS)} captions; "
        f"{len(test_set[1])} images and {len(HELD_OUT_WORDINGS)} wordings are held out"
    )

    keras.utils.set_random_seed(arguments.seed)
    model, loss = dual_encoder(arguments.loss, vocabulary)
    embed = [
        lambda x, tower=tower: tower.predict(x, batch_size=256, verbose=0)
        for tower in (model.towers["image"], model.towers["text"])
    ]
    rows = {"before": measure(*embed, *test_set)}
    history = train(model, loss, *train_set, arguments.epochs).history
    rows["after"] = measure(*embed, *test_set)

    print(f"\n{len(test_set[1])} held-out images: which of ten captions is theirs?")
    columns = list(rows["after"])
    print(" " * 22 + "".join(f"{column:>14}" for column in columns))
    print(f"{'chance':22}" + f"{0.1:14.3f}" * len(columns))
    for title, row in rows.items():
        print(f"{title:22}" + "".join(f"{row[column]:14.3f}" for column in columns))
    labelled = nearest_image(train_set, test_set)
    print(f"{'nearest labelled image':22}{labelled:14.3f}")
    learned = {name: history[name][-1] for name in ("scale", "bias") if name in history}
    print("Learned: " + ", ".join(f"{name} {x:.1f}" for name, x in learned.items()))

    for name, path in TOWERS.items():
        tfembloss.export_encoder(model.towers[name], path)
    if importlib.util.find_spec("matplotlib"):
        draw(*embed, *test_set, arguments.out)
        print(f"\nPrompts and their nearest images: {arguments.out}")
    else:
        print('\nNo picture without matplotlib: pip install ".[plot]"')
    folders = " and ".join(
        str(path.relative_to(path.parent.parent)) for path in TOWERS.values()
    )
    print(f"\nExported to {folders}. A fresh process measures and answers:")


# Serving.


def answer(queries):
    """Evaluates the exported towers, and answers queries, without keras or tfembloss."""
    if not all(path.exists() for path in TOWERS.values()):
        sys.exit("There are no exported towers yet: run this script without --ask first.")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  the tokenizer's ops

    models = {name: tf.saved_model.load(str(path)) for name, path in TOWERS.items()}

    def embed_texts(texts):
        serve = models["text"].signatures["serving_default"]
        return serve(text=tf.constant(texts))["embedding"].numpy()

    _, (images, digits) = split(*read_digits())
    serve = models["image"].signatures["serving_default"]
    images = serve(image=tf.constant(images))["embedding"].numpy()
    unseen = prompts(embed_texts, HELD_OUT_WORDINGS)
    found = accuracy(images, normalized(unseen.mean(axis=0)), digits)
    print(f"accuracy with all unseen wordings: {found:.3f}")
    for query, scores in zip(queries, embed_texts(queries) @ images.T, strict=True):
        nearest = np.argsort(-scores)[:10]
        print(f"{query}: images of {' '.join(str(digits[row]) for row in nearest)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--ask", nargs="+", metavar="QUERY", help="answer, without training"
    )
    parser.add_argument("--loss", choices=("clip", "siglip"), default="clip")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=SAVED_MODELS / "image-text.png")
    arguments = parser.parse_args()
    if arguments.ask:
        answer(arguments.ask)
    else:
        main(arguments)
        subprocess.run([sys.executable, __file__, "--ask", *SAMPLE_QUERIES], check=True)
