"""`for_data` and README's table say the same, and what they recommend trains."""

import pathlib
import re

import keras
import numpy as np
import pytest
from goldens import plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses
from tfembloss.losses import recommended

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_readme_has_the_same_table():
    table, measured = {}, {}
    for line in README.read_text().splitlines():
        cells = line.split("|")[1:-1]
        if len(cells) == 5 and (kind := re.search(r'`"([\w-]+)"`', cells[0])):
            table[kind[1]] = re.findall(r"`(\w+Loss\w*)`", cells[3])
            measured[kind[1]] = re.findall(r"`(\w+Evaluator)`", cells[4])
    for_data = {
        kind: [type(loss).__name__ for loss in losses.for_data(kind)]
        for kind in recommended._LOSSES
    }
    assert table == for_data
    rows = dict(re.findall(r'\| `"([\w-]+)"` \|(.*)\|', losses.for_data.__doc__))
    found = {kind: re.findall(r"`(\w+Evaluator)`", row) for kind, row in rows.items()}
    assert found == measured and all(measured.values())
    for name in {name for names in measured.values() for name in names}:
        assert hasattr(tfembloss.evaluation, name)


def column(seed=0):
    return np.random.default_rng(seed).normal(size=[8, 4]).astype("float32")


ABC = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2, 0, 1]]  # a text matches itself
PAIR, FOUR = (column(0), column(1)), tuple(map(column, range(4)))
LABELS, SCORES = np.arange(8) % 4, np.arange(8) / 8
DATA = {
    "article-label": (column(), LABELS),
    "query-article": (PAIR, None),
    "query-article-irrelevant_article": (FOUR[:3], None),
    "query-article-score": (PAIR, SCORES),
    "query-article-match": (PAIR, LABELS % 2),
    "query-article-teacher_scores": (FOUR, column()[:, :3]),
    "query-articles-grades": ((list("abcabcab"), [["a", "b", "c"]] * 8), ABC),
    "premise-hypothesis-label": (PAIR, LABELS),
    "text-image": (PAIR, None),
    "text-teacher_embedding": (PAIR, column(2)[:, :3]),
    "text": (["a b c", "a b", "a c", "b c", "a", "b", "c", "a a b"], None),
}
TEXT_MODELS = {
    "ContrastiveTensionLossInBatchNegatives": tfembloss.ContrastiveTensionModel,
    "DenoisingAutoEncoderLoss": tfembloss.DenoisingAutoEncoder,
}


@pytest.mark.parametrize(
    "kind, loss",
    [(kind, loss) for kind in recommended._LOSSES for loss in losses.for_data(kind)],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_is_recommended_trains(kind, loss):
    keras.utils.set_random_seed(0)
    (x, y), make = DATA[kind], lambda: keras.Sequential([keras.layers.Dense(3)])
    if kind == "text-image":
        model = tfembloss.DualEncoder({"text": make(), "image": make()})
    elif kind == "text":
        # Without noise, which outweighs four dimensions of one or two words.
        encoder = tfembloss.text.TextEncoder(5, dim=4, dropout=0.0)
        preprocessor = tfembloss.text.TextPreprocessor(["[PAD]", "[UNK]", *"abc"], 3)
        model = TEXT_MODELS[type(loss).__name__](encoder, preprocessor)
    elif isinstance(loss, losses.ListLoss):
        encoder = tfembloss.text.TextEncoder(5, dim=4, sequence_length=8, dropout=0.0)
        pairs = tfembloss.text.TextPairPreprocessor(["[PAD]", "[UNK]", *"abc"], 4, 4)
        model = tfembloss.CrossEncoder(encoder, pairs)
    elif isinstance(loss, losses.SoftmaxLoss):
        model = tfembloss.EmbeddingClassifier(make(), layers.PairHead(4))
    elif isinstance(loss, losses.ArcFaceLoss | losses.CosFaceLoss):
        model = tfembloss.EmbeddingClassifier(make(), layers.CosineHead(4))
    else:
        model = tfembloss.EmbeddingModel(make())
    if isinstance(loss, losses.MarginMSELoss) and y is None:
        y = SCORES
    model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
    history = model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"Expected one of.*article-label.*'pairs'"):
        losses.for_data("pairs")
