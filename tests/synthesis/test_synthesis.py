"""Mining, synthesis and deduplication against loops over their definitions."""

import functools
import importlib.util
import json
import pathlib
import random
import shutil
import signal
import struct
import time
import zlib

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import synthesis

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "distributed" / "synthesize.py"
_spec = importlib.util.spec_from_file_location("synthesize_script", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module", autouse=True)
def stopping_run(tmp_path_factory):
    """The run that will be killed begins with the first test, on the other core."""
    folder = tmp_path_factory.mktemp("stopping") / "set"
    log = folder.with_name("log")
    process = processes.start(SCRIPT, [folder], log)
    yield folder, process, log
    process.kill()


@functools.cache
def vector(text):
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=6)


def embed(texts):
    return np.array([vector(text) for text in texts], "float32")


def rotated(texts):
    return embed(texts)[:, ::-1][:, :4]


def cosine(a, b):
    a, b = vector(a), vector(b)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def teacher(query, text):
    return float(np.tanh(vector(query + "|" + text)[0]))


def cross_encoder(queries, texts):
    assert isinstance(queries, list) and len(queries) == len(texts)
    return np.array([[teacher(*pair)] for pair in zip(queries, texts, strict=True)])


def refuse(*_):
    raise AssertionError("A model was called.")


def make_texts(seed, num_queries=12, num_rows=60):
    """Queries, some twice and some in the corpus; a corpus with repeats; positives."""
    rng = random.Random(seed)
    corpus = [f"text {rng.randrange(45)}" for _ in range(num_rows)]
    queries = [f"query {i}" for i in range(num_queries - 4)] + rng.sample(corpus, 2)
    queries += queries[:2]
    words = [*corpus, "text apart", "text far"]
    positives = [rng.sample(words, rng.randrange(1, 4)) for _ in queries[:-3]]
    return queries, corpus, positives + [rng.choice(words) for _ in queries[-3:]]


# mine_hard_negatives


def mining_oracle(queries, corpus, positives, n=3, distance="cosine", **options):
    """For each different query: its positives, those that may be negatives, scores."""
    get, found = options.get, {}
    for query in queries:
        known = []
        for other, of in zip(queries, positives, strict=True):
            known += ([of] if isinstance(of, str) else of) if other == query else []
        known = list(dict.fromkeys(known))

        def near(text, query=query):
            if distance == "cosine":
                return cosine(query, text)
            return -np.linalg.norm(vector(query) - vector(text))

        score = (lambda t, q=query: teacher(q, t)) if get("cross_encoder") else near
        ranking = sorted(set(corpus) - {query, *known}, key=near, reverse=True)
        lowest = min(map(score, known))
        pool = []
        limit = options["range_max"]
        for text in ranking[: limit[query] if isinstance(limit, dict) else limit]:
            s = score(text)
            if get("absolute_margin") is not None and s > lowest - get("absolute_margin"):
                continue
            limit = lowest - abs(lowest) * get("relative_margin", 0)
            if get("relative_margin") is not None and s > limit:
                continue
            if s > get("max_score", np.inf) or s < get("min_score", -np.inf):
                continue
            pool.append(text)
        pool = sorted(pool, key=score, reverse=True)[get("range_min", 0) :]
        found[query] = known, pool, score
    return found


OPTIONS = [
    {},
    {"range_max": 9},
    {"range_min": 4},
    {"min_score": 0.3},
    {"max_score": 0.5},
    {"absolute_margin": 0.1},
    {"absolute_margin": -0.2},
    {"relative_margin": 0.05},
    {"range_min": 2, "range_max": 20, "max_score": 0.7, "min_score": -0.1},
    {"absolute_margin": 0.05, "relative_margin": 0.2, "min_score": -0.5, "range_min": 1},
    {"cross_encoder": cross_encoder},
    {"cross_encoder": cross_encoder, "max_score": 0.4, "range_max": 12, "range_min": 1},
    {"cross_encoder": cross_encoder, "relative_margin": 0.1, "min_score": -0.8},
    {"distance": "euclidean", "relative_margin": 0.05, "max_score": -1.5},
]


def with_range_max(options, n, positives):
    """The options with the default of range_max, which is written out here."""
    filters = {"max_score", "absolute_margin", "relative_margin", "cross_encoder"}
    many = filters & options.keys() or options.get("sampling") == "random"
    default = options.get("range_min", 0) + (10 if many else 1) * n
    return {
        "range_max": {query: default + len(of) for query, of in positives.items()},
        **options,
    }


def oracle_with_defaults(queries, corpus, positives, n, options):
    merged = mining_oracle(queries, corpus, positives, range_max=0)
    options = with_range_max(options, n, {q: known for q, (known, *_) in merged.items()})
    options.pop("sampling", None)
    return mining_oracle(queries, corpus, positives, **options)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "none")
def test_mining_is_its_definition(options, seed):
    queries, corpus, positives = make_texts(seed)
    mined = synthesis.mine_hard_negatives(
        queries, corpus, positives, embed, verbose=0, batch_size=7, **options
    )
    expected = oracle_with_defaults(queries, corpus, positives, 3, options)
    rows = [
        (query, positive, pool[:3], [score(positive), *map(score, pool[:3])])
        for query, (known, pool, score) in expected.items()
        for positive in known
    ]
    assert mined.queries == [row[0] for row in rows]
    assert mined.positives == [row[1] for row in rows]
    assert mined.negatives == [row[2] for row in rows]
    for scores, row in zip(mined.scores, rows, strict=True):
        np.testing.assert_allclose(scores, row[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"max_score": 0.7, "range_min": 2}])
def test_a_random_sample_is_of_those_that_remain(options):
    queries, corpus, positives = make_texts(2)

    def sample(seed):
        return synthesis.mine_hard_negatives(
            queries, corpus, positives, embed, sampling="random", seed=seed, verbose=0,
            range_max=9, **options,
        )  # fmt: skip

    expected = oracle_with_defaults(
        queries, corpus, positives, 3, {"range_max": 9, **options}
    )
    drawn = {query: set() for query in expected}
    for seed in range(30):
        mined = sample(seed)
        for query, negatives in zip(mined.queries, mined.negatives, strict=True):
            _, pool, score = expected[query]
            assert len(set(negatives)) == len(negatives) == min(3, len(pool))
            assert sorted(negatives, key=score, reverse=True) == negatives
            drawn[query] |= set(negatives)
    assert all(drawn[query] == set(pool) for query, (_, pool, _) in expected.items())
    assert sample(5).negatives == sample(5).negatives != sample(6).negatives
    keras.utils.set_random_seed(3)
    first = sample(None).negatives
    keras.utils.set_random_seed(3)
    assert sample(None).negatives == first != sample(None).negatives


def test_equal_to_sentence_transformers():
    """What sentence-transformers 6.2.0's function of this name returned for this.

    Its model was a stub whose embedding of the text "t57" is the direction of 57 degrees.
    Its corpus gets the positives, which stand in this one already.
    """

    def directions(texts):
        angles = np.radians([float(text[1:]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def off_by_thirty(queries, texts):
        pairs = zip(queries, texts, strict=True)
        return [-abs(float(t[1:]) - float(q[1:]) - 30) / 100 for q, t in pairs]

    corpus = [f"t{i}" for i in (57, 2, 11, 20, 27, 33, 33, 41, 4, 66, 78, 90)]
    # fmt: off
    peer = [
        ({}, "t2 t11 t27", "t41 t66 t33",
         [0.9976, 0.9994, 0.9816, 0.8910], [0.9925, 0.9877, 0.9613, 0.9563]),
        (dict(range_min=1, range_max=6), "t11 t27 t33", "t66 t33 t27",
         [0.9976, 0.9816, 0.8910, 0.8387], [0.9925, 0.9613, 0.9563, 0.9205]),
        (dict(absolute_margin=0.1), "t33 t41 t57", "t78 t20 t11",
         [0.9976, 0.8387, 0.7547, 0.5446], [0.9925, 0.8829, 0.8660, 0.7771]),
        (dict(relative_margin=0.05), "t27 t33 t41", "t27 t78 t20",
         [0.9976, 0.8910, 0.8387, 0.7547], [0.9925, 0.9205, 0.8829, 0.8660]),
        (dict(min_score=0.5, max_score=0.95), "t27 t33 t41", "t27 t78 t20",
         [0.9976, 0.8910, 0.8387, 0.7547], [0.9925, 0.9205, 0.8829, 0.8660]),
        (dict(range_min=1, range_max=8, absolute_margin=0.02, relative_margin=0.01,
              max_score=0.9, min_score=0.3), "t33 t41 t57", "t20 t11 t90",
         [0.9976, 0.8387, 0.7547, 0.5446], [0.9925, 0.8660, 0.7771, 0.7660]),
        (dict(cross_encoder=off_by_thirty, max_score=-0.1), "t41 t11 t57", "t90 t66 t41",
         [-0.26, -0.11, -0.19, -0.27], [-0.23, -0.10, -0.14, -0.39]),
    ]
    # fmt: on
    for options, of_first, of_second, first_scores, second_scores in peer:
        mined = synthesis.mine_hard_negatives(
            ["q0", "q0", "q50"], corpus, ["t4", "t20", "t57"], directions, verbose=0,
            **options,
        )  # fmt: skip
        assert mined.positives == ["t4", "t20", "t57"]
        assert mined.negatives == [of_first.split()] * 2 + [of_second.split()]
        np.testing.assert_allclose(mined.scores[0], first_scores, atol=6e-5)
        np.testing.assert_allclose(mined.scores[2], second_scores, atol=6e-5)


def test_a_negative_is_never_known_nor_twice():
    queries, corpus, positives = make_texts(4)
    mined = synthesis.mine_hard_negatives(
        queries, corpus, positives, embed, num_negatives=40, verbose=0
    )
    known = {}
    for query, positive in zip(mined.queries, mined.positives, strict=True):
        known.setdefault(query, {query}).add(positive)
    for query, negatives in zip(mined.queries, mined.negatives, strict=True):
        assert len(set(negatives)) == len(negatives)
        assert set(negatives) == set(corpus) - known[query]  # all of the rest


def test_a_corpus_of_positives_alone_has_no_negatives():
    mined = synthesis.mine_hard_negatives(["q"], ["p", "p", "q"], ["p"], embed, verbose=0)
    assert mined.negatives == [[]] and len(mined.scores[0]) == 1
    assert mined.triplets() == ([], [], []) and mined.triplet_scores().shape == (0, 2)
    assert mined.tuples(2) == ([], [], [], []) and mined.tuple_scores(2).shape == (0, 3)
    (texts, others), labels = mined.pairs()
    assert (texts, others, labels.tolist()) == (["q"], ["p"], [1])


def test_columns_for_fit():
    queries, corpus, positives = make_texts(5)
    mined = synthesis.mine_hard_negatives(
        queries, corpus, positives, embed, absolute_margin=0.3, verbose=0
    )
    sizes = list(map(len, mined.negatives))
    assert {0, 3} < set(sizes)  # some have none, some all, some fewer
    triplets, scores = mined.triplets(), mined.triplet_scores()
    assert list(map(len, triplets)) == [sum(sizes)] * 3
    for query, positive, negative, of in zip(*triplets, scores, strict=True):
        expected = [cosine(query, positive), cosine(query, negative)]
        np.testing.assert_allclose(of, expected, atol=1e-5)
        assert of[1] <= of[0] - 0.3 + 1e-6
    for count, wanted in [(None, 3), (1, 1), (3, 3)]:
        rows, scores = mined.tuples(count), mined.tuple_scores(count)
        num_rows = sum(size >= wanted for size in sizes)
        assert list(map(len, rows)) == [num_rows] * (2 + wanted)
        assert scores.shape == (num_rows, 1 + wanted)
        for row, of in zip(zip(*rows, strict=True), scores, strict=True):
            expected = [cosine(row[0], text) for text in row[1:]]
            np.testing.assert_allclose(of, expected, atol=1e-5)
    (texts, others), labels = mined.pairs()
    pairs = list(zip(texts, others, strict=True))
    assert len(set(pairs)) == len(pairs) == len(labels)
    positive = set(zip(mined.queries, mined.positives, strict=True))
    assert {pair for pair, label in zip(pairs, labels, strict=True) if label} == positive
    negative = set(zip(triplets[0], triplets[2], strict=True))
    assert {
        pair for pair, label in zip(pairs, labels, strict=True) if not label
    } == negative
    with pytest.raises(ValueError, match="`num_negatives` must be an integer >= 1"):
        mined.tuples(0)


@pytest.fixture(scope="module")
def models():
    """An encoder of texts, and a model of pairs of them."""
    keras.utils.set_random_seed(0)
    words = ["[PAD]", "[UNK]", "text", "query", *map(str, range(10))]
    words += [f"##{i}" for i in range(10)]
    encoder = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(words), dim=8),
        tfembloss.text.TextPreprocessor(words, sequence_length=8),
    )
    one, other = (keras.Input([], dtype="string") for _ in range(2))
    count = keras.layers.TextVectorization(
        vocabulary=words[2:14], output_mode="tf_idf", idf_weights=np.arange(1.0, 13)
    )
    score = keras.layers.Dot(axes=1)([count(one), count(other)])
    return encoder, keras.Model([one, other], score)


def test_models_embed_score_and_train_on_what_was_mined(models, tmp_path):
    encoder, pair_model = models
    queries, corpus, positives = make_texts(6)
    mined = synthesis.mine_hard_negatives(
        queries, corpus, positives, encoder, cross_encoder=pair_model, verbose=0
    )
    losses = tfembloss.losses
    for loss, data in [
        (losses.ContrastiveLoss(), mined.pairs()),
        (losses.MultipleNegativesRankingLoss(), [mined.tuples()]),
        (losses.MarginMSELoss(), [mined.triplets(), mined.triplet_scores()]),
    ]:
        encoder.compile("sgd", loss=loss, run_eagerly=True)
        history = encoder.fit(*data, batch_size=64, verbose=0).history
        assert np.isfinite(history["loss"]).all()
    dataset = synthesis.synthesize(
        queries, corpus, encoder, pair_model, tmp_path / "set", 4, verbose=0
    )
    encoder.fit(dataset.shuffle(100).batch(16), verbose=0)
    found = synthesis.find_duplicates(corpus, encoder, verbose=0)
    assert len(found.rows) >= len(corpus) - len(set(corpus))


def test_two_models_for_queries_and_corpus():
    queries, corpus, positives = make_texts(7)
    seen = []

    def of_queries(texts):
        seen.extend(texts)
        return embed(texts)

    mined = synthesis.mine_hard_negatives(
        queries, corpus, positives, (of_queries, embed), verbose=0
    )
    plain = synthesis.mine_hard_negatives(queries, corpus, positives, embed, verbose=0)
    assert mined.negatives == plain.negatives
    assert seen == list(dict.fromkeys(queries))


def test_the_summary_counts(capsys):
    queries, corpus, positives = make_texts(8)
    options = {"absolute_margin": 0.3, "max_score": 0.4}
    synthesis.mine_hard_negatives(queries, corpus, positives, embed, **options)
    text = capsys.readouterr().out
    pools = oracle_with_defaults(queries, corpus, positives, 3, options)
    sizes = [min(3, len(pool)) for _, pool, _ in pools.values()]
    fewer = len(sizes) - sizes.count(3) - sizes.count(0)
    assert f"{len(sizes)} queries" in text and f"{sizes.count(3)} queries with all" in text
    assert f"{fewer} with fewer, {sizes.count(0)} with none." in text
    loose = oracle_with_defaults(
        queries, corpus, positives, 3, {"absolute_margin": -9}
    )  # removes none
    margin = oracle_with_defaults(queries, corpus, positives, 3, {"absolute_margin": 0.3})
    all_, some, last = (
        sum(len(pool) for _, pool, _ in of.values()) for of in (loose, margin, pools)
    )
    assert f"{all_} candidates; {all_ - some} removed by absolute_margin=0.3" in text
    assert f"{some - last} removed by max_score=0.4" in text
    synthesis.mine_hard_negatives(queries, corpus, positives, embed, verbose=0)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("changes, message", [
    ({"queries": "one text"}, "queries as a list of texts"),
    ({"queries": []}, "at least one text in queries"),
    ({"queries": ["q", " "], "positives": ["p", "p"]}, "1 without any, the first in row 1"),
    ({"corpus": ["a", b"b"]}, "b'b' of type bytes in row 1"),
    ({"corpus": ["a", None]}, "NoneType in row 1"),
    ({"corpus": None}, "corpus as a list of texts. Received: None"),
    ({"corpus": ["a", "\ud800"]}, "surrogate pair in row 1"),
    ({"positives": ["p", "o"]}, "1 queries, positives for 2"),
    ({"positives": "p"}, "positives as a list.*'p' of type str"),
    ({"positives": b"p"}, "positives as a list.*b'p' of type bytes"),
    ({"positives": None}, "positives as a list.*NoneType"),
    ({"positives": 3}, "positives as a list.*3 of type int"),
    ({"positives": [b"p"]}, "b'p' of type bytes in row 0"),
    ({"positives": [3]}, "3 of type int in row 0"),
    ({"positives": [None]}, "NoneType in row 0"),
    ({"positives": [["p", b"p"]]}, "positives of query 0 .*b'p' of type bytes in row 1"),
    ({"positives": [[]]}, "the positives of query 0, received none"),
    ({"positives": [[""]]}, "without any"),
    ({"num_negatives": 0}, "integer >= 1.*num_negatives=0"),
    ({"num_negatives": 1.5}, "Received: num_negatives=1.5"),
    ({"range_min": -1}, "`range_min` must be an integer >= 0"),
    ({"range_max": 3, "range_min": 1}, "range_max=3, range_min=1, num_negatives=3"),
    ({"min_score": 0.5, "max_score": 0.4}, "min_score=0.5, max_score=0.4"),
    ({"absolute_margin": np.nan}, "absolute_margin=nan"),
    ({"relative_margin": "5%"}, "relative_margin='5%'"),
    ({"sampling": "hard"}, "'hard'"),
    ({"sampling": "random", "seed": -1}, "integer >= 0.*seed=-1"),
    ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
    ({"distance": "cosinus"}, "cosinus"),
    ({"embed": 7}, "`embed` as a Keras model, or a function"),
    ({"embed": lambda texts: np.zeros([len(texts)])}, r"shape \(1,\)"),
    ({"embed": lambda texts: np.zeros([1, 2])}, r"here n = 3, .* shape \(1, 2\)"),
    ({"embed": (embed, rotated)}, r"D = 6 as before. Received: shape \(3, 4\)"),
    ({"embed": lambda texts: np.full([len(texts), 2], np.nan)}, "of 'q' is NaN"),
    ({"cross_encoder": lambda *_: np.zeros([2, 2])}, r"scores \[n\] or \[n, 1\]"),
    ({"cross_encoder": lambda a, b: [np.inf for _ in a]}, "score of 'p' is NaN or inf"),
    ({"embed": lambda texts: {"a": 1}}, r"embeddings \[n, D\], here n = 1.*dict"),
    ({"embed": lambda texts: [[1], *([1, 2] for _ in texts)]}, "n = 1.*list"),
    ({"embed": lambda t: np.ones([len(t), len(t[0])]), "corpus": ["a", "bb"],
      "batch_size": 1}, r"n = 1, D = 1 as before. Received: shape \(1, 2\)"),
    ({"cross_encoder": lambda *_: {"a": 1}}, r"scores \[n\].*dict"),
])  # fmt: skip
def test_mining_refuses(changes, message):
    arguments = {"queries": ["q"], "corpus": ["a", "b"], "positives": ["p"], "embed": embed}
    with pytest.raises(ValueError, match=message):
        synthesis.mine_hard_negatives(**{**arguments, **changes}, verbose=0)


def test_models_without_preprocessor_are_refused():
    encoder = tfembloss.text.TextEncoder(10, dim=8, num_layers=1, num_heads=2)
    arguments = ["q"], ["a", "b"], ["p"]
    for models, message in [
        ({"embed": tfembloss.EmbeddingModel(encoder)}, r"Wrap it: EmbeddingModel\(enc"),
        ({"embed": tfembloss.CrossEncoder(encoder)}, "CrossEncoder, which scores pairs"),
        (
            {"embed": embed, "cross_encoder": tfembloss.CrossEncoder(encoder)},
            r"Wrap it: CrossEncoder\(enc",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            synthesis.mine_hard_negatives(*arguments, **models, verbose=0)


# synthesize


def rotated_cosine(a, b):
    a, b = vector(a)[::-1][:4], vector(b)[::-1][:4]
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def synthesis_oracle(queries, corpus, similarities, n, positives=None):
    rows = []
    for number, query in enumerate(queries):
        known = {query}
        for other, of in zip(queries, positives or [], strict=False):
            known |= set([of] if isinstance(of, str) else of) if other == query else set()
        rankings = [
            sorted(set(corpus) - known, key=lambda t, q=query, s=s: s(q, t), reverse=True)
            for s in similarities
        ]
        articles = []
        for rank in range(len(rankings[0])):
            for ranking in rankings:
                if ranking[rank] not in articles:
                    articles.append(ranking[rank])
        if positives:
            of = positives[number]
            articles.insert(0, of if isinstance(of, str) else of[0])
        similar, *others = articles[:n]
        for other in others:
            margin = teacher(query, similar) - teacher(query, other)
            rows.append((query, similar, other, margin))
    return rows


def check_rows(dataset, expected):
    assert len(dataset) == len(expected)
    rows = [
        (*(text.decode() for text in texts), margin)
        for texts, margin in dataset.as_numpy_iterator()
    ]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    np.testing.assert_allclose(
        [row[3] for row in rows], [row[3] for row in expected], atol=1e-6
    )


@pytest.mark.parametrize("with_positives", [False, True])
@pytest.mark.parametrize("miners", [1, 2])
def test_synthesis_is_its_definition(miners, with_positives, tmp_path):
    queries, corpus, positives = make_texts(miners, num_queries=14)
    queries, positives = queries * 25, positives * 25  # two files
    assert len(queries) > 256
    positives = positives if with_positives else None
    dataset = synthesis.synthesize(
        queries,
        corpus,
        [embed, rotated] if miners == 2 else embed,
        cross_encoder,
        tmp_path / "new" / "set",
        num_relations=5,
        positives=positives,
        batch_size=2,
        verbose=0,
    )
    similarities = [cosine, rotated_cosine][:miners]
    expected = synthesis_oracle(queries, corpus, similarities, 5, positives)
    assert len(expected) == len(queries) * 4
    check_rows(dataset, expected)
    files = sorted(file.name for file in (tmp_path / "new" / "set").iterdir())
    assert files == [
        "rows-00000-of-00002.tfrecord",
        "rows-00001-of-00002.tfrecord",
        "synthesized.json",
    ]
    (x, margin) = next(iter(dataset.batch(3)))
    assert len(x) == 3 and x[0].shape == margin.shape == (3,) and margin.dtype == tf.float32


SET = dict(
    queries=script.QUERIES,
    corpus=script.CORPUS,
    relation_miner=script.miner,
    cross_encoder=script.cross_encoder,
    num_relations=4,
    batch_size=2000,
)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    synthesis.synthesize(**SET, path=folder, verbose=0)
    return folder


def test_a_killed_run_goes_on_to_the_same_bytes(whole, stopping_run):
    folder, process, log = stopping_run
    end = time.monotonic() + 300
    while not folder.with_name("set.stopped").exists():
        assert process.is_alive() and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    made = [file for file in folder.glob("*.tfrecord")]
    assert len(made) == 2 and (folder / "corpus-0.float32").exists()
    with pytest.raises(ValueError, match="which has 2 of 5 files"):
        synthesis.load_synthesized(folder)

    texts, before = [], {file: file.stat().st_mtime_ns for file in made}

    def counting(batch):
        texts.extend(batch)
        return script.miner(batch)

    synthesis.synthesize(**{**SET, "relation_miner": counting}, path=folder, verbose=0)
    assert contents(folder) == contents(whole)
    assert before == {file: file.stat().st_mtime_ns for file in made}
    probe = 2 * 2
    assert len(texts) == probe + len(SET["queries"]) - 2 * 256  # none of the corpus again


def test_embedding_the_corpus_goes_on_too(tmp_path):
    small = {**SET, "queries": script.QUERIES[:300], "batch_size": 2, "verbose": 0}
    folder, uninterrupted, seen = tmp_path / "set", tmp_path / "uninterrupted", []

    def failing(texts):
        if "article 40" in texts:
            raise RuntimeError("no more")
        return script.miner(texts)

    def counting(texts):
        seen.extend(texts)
        return script.miner(texts)

    with pytest.raises(RuntimeError):
        synthesis.synthesize(**{**small, "relation_miner": failing}, path=folder)
    file = folder / "corpus-0.float32"
    assert file.stat().st_size == 32 * 4 * 4  # a whole step: 16 batches of 2 texts
    with file.open("ab") as out:
        out.write(b"a step that was half written" * 3)  # five rows and a bit
    synthesis.synthesize(**{**small, "relation_miner": counting}, path=folder)
    assert seen[4:][:58] == script.CORPUS[32:]  # after the probe
    synthesis.synthesize(**small, path=uninterrupted)
    assert contents(folder) == contents(uninterrupted)


@pytest.mark.parametrize("damage", ["empty", "cut at a record", "cut", "flipped"])
def test_a_damaged_file_is_made_again(damage, whole, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    file = folder / "rows-00003-of-00005.tfrecord"
    content = bytearray(file.read_bytes())
    (size,) = struct.unpack("<Q", content[:8])
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    end = {"empty": 0, "cut at a record": size + 16, "cut": -5}.get(damage)
    file.write_bytes(content[:end])
    with pytest.raises(ValueError, match=r"4 of 5 files: rows-00003-of-00005.*damaged"):
        synthesis.load_synthesized(folder)
    synthesis.synthesize(**SET, path=folder, verbose=0)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("manifest", [b"", b'{"inpu', b"[]", b"{}", b"\xff"])
def test_a_damaged_manifest_is_refused(manifest, tmp_path):
    (tmp_path / "synthesized.json").write_bytes(manifest)
    with pytest.raises(ValueError, match=r"synthesized.json', which is damaged"):
        synthesis.load_synthesized(tmp_path)
    with pytest.raises(ValueError, match=r"synthesized.json', which is damaged"):
        synthesis.synthesize(**SET, path=tmp_path)


def test_scores_of_zero_in_the_probe_are_rounded_too(tmp_path):
    arguments = ["q"], ["a", "b"], embed
    synthesis.synthesize(*arguments, lambda a, b: [0] * len(a), tmp_path, 2, verbose=0)
    (tmp_path / "rows-00000-of-00001.tfrecord").unlink()
    synthesis.synthesize(*arguments, lambda a, b: [1e-8] * len(a), tmp_path, 2, verbose=0)


def test_a_finished_set_calls_no_model(whole, capsys):
    before = {file: file.stat().st_mtime_ns for file in whole.iterdir()}
    leftover = whole / "corpus-0.float32"
    leftover.touch()  # of a run that was killed when all rows were there
    models = {"relation_miner": refuse, "cross_encoder": refuse}
    dataset = synthesis.synthesize(**{**SET, **models}, path=whole)
    assert len(dataset) == 1100 * 3 and not leftover.exists()
    assert (
        capsys.readouterr().out == f"The set in {whole} is finished: no model is called.\n"
    )
    assert before == {file: file.stat().st_mtime_ns for file in whole.iterdir()}


@pytest.mark.parametrize("changes", [
    {"queries": [*script.QUERIES[:-1], "another"]},
    {"queries": script.QUERIES[:-1]},
    {"corpus": script.CORPUS[::-1]},
    {"corpus": ["article 0article 1", *script.CORPUS[2:]]},
    {"num_relations": 5},
    {"positives": ["article 1"] * 1100},
    {"relation_miner": [refuse, refuse]},
])  # fmt: skip
def test_the_set_of_other_texts_or_options_is_refused(changes, whole):
    before = contents(whole)
    arguments = {**SET, "relation_miner": refuse, "cross_encoder": refuse, **changes}
    with pytest.raises(ValueError, match="holds a set of others"):
        synthesis.synthesize(**arguments, path=whole)
    assert contents(whole) == before


@pytest.mark.parametrize("changes", [
    {"relation_miner": lambda texts: 1.01 * script.miner(texts)},
    {"relation_miner": lambda texts: script.miner(texts)[:, :3]},
    {"cross_encoder": lambda a, b: 1 + script.cross_encoder(a, b)},
])  # fmt: skip
def test_a_set_begun_with_other_models_is_refused(changes, whole, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("synthesized.json", "rows-00001-of-00005.tfrecord"):
        (folder / name).write_bytes((whole / name).read_bytes())
    before = contents(folder)
    with pytest.raises(ValueError, match="models with which the set was begun"):
        synthesis.synthesize(**{**SET, **changes}, path=folder, verbose=0)
    assert contents(folder) == before


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match="something else: choose another"):
            synthesis.synthesize(**SET, path=path)
        with pytest.raises(ValueError, match=r"has no synthesized.json"):
            synthesis.load_synthesized(path)
    for path in ("gs://bucket/set", None, 3):
        with pytest.raises(ValueError, match="local folder"):
            synthesis.synthesize(**SET, path=path)
        with pytest.raises(ValueError, match="local folder"):
            synthesis.load_synthesized(path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_manifest_that_was_half_written_is_none(tmp_path):
    (tmp_path / "synthesized.json.partial").write_text('{"inpu')
    dataset = synthesis.synthesize(
        ["q"], ["a", "b"], embed, cross_encoder, tmp_path, 2, verbose=0
    )
    assert len(dataset) == 1
    assert set(json.loads((tmp_path / "synthesized.json").read_text())) == {
        "inputs", "rows", "probes",
    }  # fmt: skip


def test_the_smallest_corpus(tmp_path):
    """Three texts can be found for q, and a positive that need not be found."""
    arguments = ["q"], ["a", "b", "b", "c", "q"], embed, cross_encoder
    make = synthesis.synthesize
    assert len(make(*arguments, tmp_path / "0", 3, verbose=0)) == 2
    with pytest.raises(ValueError, match="4 different texts, for one query 3"):
        make(*arguments, tmp_path / "1", 4)
    assert len(make(*arguments, tmp_path / "2", 4, positives=["p"], verbose=0)) == 3
    with pytest.raises(ValueError, match="num_relations below 4"):
        make(*arguments, tmp_path / "3", 4, positives=["a"])
    assert not (tmp_path / "1").exists() and not (tmp_path / "3").exists()


@pytest.mark.parametrize("changes, message", [
    ({"queries": []}, "at least one text in queries"),
    ({"corpus": ["a", ""]}, "in every row of corpus"),
    ({"num_relations": 1}, "`num_relations` must be an integer >= 2"),
    ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
    ({"relation_miner": []}, "received none"),
    ({"relation_miner": [embed, "sbert"]}, "'sbert'"),
    ({"cross_encoder": None}, "`cross_encoder` as a Keras model"),
    ({"positives": ["article 1"]}, "1100 queries, positives for 1"),
    ({"relation_miner": lambda texts: embed(texts) * np.nan}, "embedding of 'query 0'"),
])  # fmt: skip
def test_synthesis_refuses(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        synthesis.synthesize(**{**SET, **changes}, path=tmp_path / "set")
    assert not (tmp_path / "set").exists()


# find_duplicates


def near_texts(seed, num_texts):
    """Texts "3.07": near to all that begin with a 3; some are there twice."""
    rng = random.Random(seed)
    return [f"{rng.randrange(12)}.{rng.randrange(100):02d}" for _ in range(num_texts)]


def near_embed(texts):
    rows = [
        np.append(vector(text.split(".")[0]), 0) + 0.25 * np.append(vector(text), 1)
        for text in texts
    ]
    return 1e3 * np.array(rows)


def duplicates_oracle(texts, threshold):
    different = list(dict.fromkeys(texts))
    embeddings = dict(zip(different, near_embed(different), strict=True))

    def similarity(a, b):
        a, b = embeddings[a], embeddings[b]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    kept, fate = [], {}
    for row, text in enumerate(texts):
        if text not in fate:
            nearest = max(kept, key=lambda k: similarity(texts[k], text), default=None)
            if nearest is None or similarity(texts[nearest], text) < threshold:
                kept.append(row)
                fate[text] = row, 1
            else:
                fate[text] = nearest, similarity(texts[nearest], text)
    return [(row, *fate[text]) for row, text in enumerate(texts) if fate[text][0] != row]


@pytest.mark.parametrize("tile, kept", [(1024, 16384), (16, 5), (1, 1)])
@pytest.mark.parametrize("threshold", [0.8, 0.95])
def test_duplicates_are_their_definition(threshold, tile, kept, monkeypatch):
    monkeypatch.setattr("tfembloss.synthesis.duplicates._ROWS", tile)
    monkeypatch.setattr("tfembloss.synthesis.duplicates._KEPT_ROWS", kept)
    texts = near_texts(tile, 150)
    found = synthesis.find_duplicates(texts, near_embed, threshold, verbose=0)
    expected = duplicates_oracle(texts, threshold)
    equal = [texts[row] == texts[original] for row, original, _ in expected]
    assert 0 < sum(equal) < len(equal) < len(texts) - 15  # some of each
    assert found.rows.tolist() == [row for row, _, _ in expected]
    assert found.originals.tolist() == [original for _, original, _ in expected]
    np.testing.assert_allclose(found.similarities, [s for *_, s in expected], atol=1e-5)
    assert (found.similarities[equal] == 1).all() and found.similarities.max() <= 1

    cleaned = np.delete(texts, found.rows).tolist()
    again = synthesis.find_duplicates(cleaned, near_embed, threshold, verbose=0)
    assert len(again.rows) == 0 and again.rows.dtype == again.originals.dtype == np.int64
    assert not set(found.originals) & set(found.rows)


def test_equal_texts_alone():
    texts = ["a", "b", " a", "a", "", "b", ""]
    rows, originals, similarities = synthesis.find_duplicates(texts, None, verbose=0)
    assert rows.tolist() == [3, 5, 6] and originals.tolist() == [0, 1, 4]
    assert similarities.tolist() == [1, 1, 1] and similarities.dtype == np.float32


def test_zero_embeddings_are_near_nothing():
    found = synthesis.find_duplicates(
        ["a", "b", "c", "a"], lambda texts: np.zeros([len(texts), 3]), verbose=0
    )
    assert found.rows.tolist() == [3]


def test_the_summary_of_duplicates(capsys):
    texts = ["1.00", "1.00", *near_texts(0, 60), "5.123 " + "long " * 30, "5.123"]
    found = synthesis.find_duplicates(texts, near_embed, 0.8)
    lines = capsys.readouterr().out.splitlines()
    equal = sum(texts[a] == texts[b] for a, b in zip(*found[:2], strict=True))
    summary = f"{len(found.rows)} of 64 texts are duplicates: {equal} equal, "
    start = next(i for i, line in enumerate(lines) if line.startswith(summary))
    assert f"{len(found.rows) - equal} with a cosine >= 0.8." in lines[start]
    assert lines[start + 1] == "  1.000  1: '1.00'  of  0: '1.00'"
    assert len(lines) == start + 7 and max(map(len, lines[start:])) < 100


@pytest.mark.parametrize("changes, message", [
    ({"texts": []}, "at least one text"),
    ({"texts": ["a", 3]}, "3 of type int in row 1"),
    ({"threshold": 0}, "threshold=0"),
    ({"threshold": 1.01}, "threshold=1.01"),
    ({"threshold": np.nan}, "threshold=nan"),
    ({"threshold": "0.9"}, "threshold='0.9'"),
    ({"batch_size": -1}, "`batch_size` must be an integer >= 1"),
    ({"embed": "model"}, "`embed` as a Keras model"),
    ({"embed": lambda texts: np.full([len(texts), 2], np.inf)}, "NaN or infinite"),
])  # fmt: skip
def test_duplicates_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        synthesis.find_duplicates(
            **{"texts": ["a", "b"], "embed": embed, "verbose": 0, **changes}
        )


# Containers, and what is equal but for rounding.

TEXTS = ["cab a bad", "egg fed", "head", "faced"]
BY_ID = dict(zip(["d0", "d1", "d2", "d3"], TEXTS, strict=True))
QUERIES = ["a bad cab", "fed egg"]


def mine(queries=QUERIES, corpus=TEXTS, positives=TEXTS[:2], **options):
    return synthesis.mine_hard_negatives(
        queries, corpus, positives, embed, num_negatives=2, verbose=0, **options
    )


@pytest.mark.parametrize("changes", [
    {"corpus": BY_ID},
    {"corpus": BY_ID, "positives": ["d0", ["d1"]]},
    {"corpus": BY_ID, "positives": [{"d0"}, {"d1": 2, "d3": 0}]},
    {"queries": {7: QUERIES[0], 8: QUERIES[1]}, "positives": {8: [TEXTS[1]], 7: TEXTS[0]}},
    {"positives": {QUERIES[1]: {TEXTS[1]}, QUERIES[0]: [TEXTS[0]]}},
    {"corpus": dict(enumerate(TEXTS)), "positives": [0, {1}]},
    {"queries": np.array(QUERIES), "corpus": (text for text in TEXTS)},
])  # fmt: skip
def test_texts_and_positives_by_id(changes):
    mined, expected = mine(**changes), mine()
    assert mined[:3] == expected[:3]
    assert all(type(text) is str for text in mined.queries)


def test_positives_in_a_set_come_in_one_order():
    mined = mine(positives=[{"head", "cab a bad"}, {"egg fed"}])
    assert mined.positives == ["cab a bad", "head", "egg fed"]


@pytest.mark.parametrize("changes, message", [
    ({"queries": set(QUERIES)}, "queries.*A set has no order"),
    ({"corpus": set(TEXTS)}, "corpus.*A set has no order"),
    ({"positives": set(TEXTS[:2])}, "positives.*A set has no order"),
    ({"queries": tf.data.Dataset.from_tensor_slices(QUERIES)}, "as_numpy_iterator"),
    ({"corpus": {"d": {"title": "a", "text": "b"}}}, "of type dict in the row of id 'd'"),
    ({"corpus": {"d": "a", "e": " "}, "positives": ["d", "e"]}, "the row of id 'e'"),
    ({"corpus": BY_ID, "positives": ["d0", "d9"]}, "'d9' of query 1, not an id"),
    ({"corpus": BY_ID, "positives": ["d0", "egg fed"]}, "'egg fed' of query 1, not an id"),
    ({"positives": [{"cab a bad": 0}, "egg fed"]}, "positives of query 0, received none"),
    ({"positives": [{"cab a bad": "yes"}, "egg fed"]}, "grades, numbers.*'yes'"),
    ({"positives": {QUERIES[0]: ["head"]}}, "1 queries missing.*'fed egg'"),
    ({"positives": {**dict(zip(QUERIES, TEXTS, strict=False)), "z": "a"}}, "1 keys.*'z'"),
    ({"positives": {0: ["head"], 1: ["egg fed"]}}, "2 queries missing and 2 keys"),
    ({"absolute_margin": True}, "absolute_margin=True"),
    ({"corpus": ["x" * 10**6, 3]}, "3 of type int in row 1"),
])  # fmt: skip
def test_other_containers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        mine(**changes)
    assert len(str(error.value)) < 500


def test_duplicates_of_texts_by_id():
    found = synthesis.find_duplicates({"a": "x", "b": "y", "c": "x"}, embed, verbose=0)
    assert found.rows.tolist() == [2] and found.originals.tolist() == [0]
    for texts in ({"x", "y"}, "xy", {"a": 3}):
        with pytest.raises(ValueError, match="texts as a list"):
            synthesis.find_duplicates(texts, embed, verbose=0)
    with pytest.raises(ValueError, match="threshold=True"):
        synthesis.find_duplicates(["x"], embed, threshold=True, verbose=0)


def test_synthesis_of_texts_by_id(tmp_path):
    arguments = embed, cross_encoder
    by_id = synthesis.synthesize(
        dict(zip("qr", QUERIES, strict=True)), BY_ID, *arguments, tmp_path / "0", 3,
        positives={"r": {"d1": 1}, "q": ["d0"]}, verbose=0,
    )  # fmt: skip
    lists = synthesis.synthesize(
        QUERIES, TEXTS, *arguments, tmp_path / "1", 3, positives=TEXTS[:2], verbose=0
    )
    assert list(by_id.as_numpy_iterator()) == list(lists.as_numpy_iterator())


def twin_texts():
    """Texts of 60 rows: queries, positives, texts of the positives' embeddings."""
    rows = np.random.default_rng(0).normal(size=[120, 64])
    rows *= np.random.default_rng(1).uniform(0.1, 1000, size=[120, 1])
    row_of = {f"{kind}{i}": i + 60 * (kind != "q") for kind in "qpt" for i in range(60)}
    texts = [[f"{kind}{i}" for i in range(60)] for kind in "qpt"]
    return *texts, lambda batch: rows[[row_of[text] for text in batch]].astype("float32")


def test_a_threshold_of_one_finds_equal_embeddings():
    _, positives, twins, embed_twins = twin_texts()
    texts = positives + twins
    for threshold in (1, 1.0, np.float32(1)):
        found = synthesis.find_duplicates(texts, embed_twins, threshold, verbose=0)
        assert found.originals.tolist() == list(range(60))
    off = embed_twins(texts) + 0.01 * np.roll(
        embed_twins(texts), 1, axis=1
    )  # cosine 0.9999
    of = dict(zip(texts, np.concatenate([embed_twins(texts)[:60], off[60:]]), strict=True))
    found = synthesis.find_duplicates(texts, lambda t: [of[x] for x in t], 1, verbose=0)
    assert not len(found.rows)


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("options", [
    {"absolute_margin": 0}, {"relative_margin": 0}, {"max_score": 1.0},
])  # fmt: skip
def test_margins_of_zero_keep_what_is_equal(distance, options):
    if distance != "cosine" and "max_score" in options:
        options = {"max_score": 1e9}
    queries, positives, twins, embed_twins = twin_texts()
    mined = synthesis.mine_hard_negatives(
        queries, twins, positives, embed_twins, num_negatives=60, range_max=60,
        distance=distance, verbose=0, **options,
    )  # fmt: skip
    for twin, negatives in zip(twins, mined.negatives, strict=True):
        assert twin in negatives


def test_one_query_of_many_positives_does_not_decide_for_all(monkeypatch):
    texts = [f"text {i}" for i in range(900)]
    queries = [f"query {i}" for i in range(300)]
    positives = [[text] for text in texts[:300]]
    options = {"cross_encoder": cross_encoder, "num_negatives": 1, "verbose": 0}
    before = synthesis.mine_hard_negatives(queries, texts, positives, embed, **options)
    positives[0] = texts[:800]
    shapes, num_pairs = [], []
    top_k = tfembloss.search.top_k

    def watched(queries, corpus, k, *arguments):
        shapes.append((len(queries), k))
        return top_k(queries, corpus, k, *arguments)

    def counting(queries, texts):
        num_pairs.append(len(queries))
        return cross_encoder(queries, texts)

    monkeypatch.setattr("tfembloss.search.top_k", watched)
    monkeypatch.setattr("tfembloss.search._ENTRIES", 20_000)
    options["cross_encoder"] = counting
    mined = synthesis.mine_hard_negatives(queries, texts, positives, embed, **options)
    assert mined.negatives[800:] == before.negatives[1:]
    assert not {*mined.negatives[0]} & {*positives[0]} and len(mined.negatives[0]) == 1
    assert max(rows * k for rows, k in shapes) <= 20_000
    assert sum(num_pairs) < 800 + 299 + 100 + 299 * 11 + 1


def test_models_of_other_inputs_and_results_are_refused():
    numbers = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    for options, message in [
        ({"embed": numbers}, r"model of 1 input of texts.*\['float32'\]"),
        ({"embed": embed, "cross_encoder": numbers}, "model of 2 inputs of texts"),
        ({"embed": lambda texts: np.ones([len(texts), 2]) * 1j}, "complex128"),
        ({"embed": lambda texts: [["1", "2"]] * len(texts)}, "dtype <U1"),
        ({"embed": lambda texts: np.zeros([len(texts), 0])}, r"shape \(2, 0\)"),
        ({"embed": lambda texts: np.full([len(texts), 2], 1e39)}, "NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            synthesis.mine_hard_negatives(QUERIES, TEXTS, TEXTS[:2], verbose=0, **options)


@pytest.mark.parametrize("change", [
    {"rows": "12"}, {"rows": [2.0]}, {"rows": [True]}, {"rows": [-2]}, {"rows": []},
    {"rows": None}, {"inputs": 3}, {"inputs": None}, {"inputs": ""}, {"probes": None},
    {"probes": []}, {"probes": {"a": 1}}, {"probes": [[["a"]], [1.0]]},
    {"probes": [[[1], [1, 2]], [1.0]]}, {"probes": [[[float("nan")]], [1.0]]},
    {"probes": [[1.0]]}, {"probes": [[[1.0]], [[1.0]]]},
], ids=str)  # fmt: skip
def test_a_manifest_of_other_types_is_refused(change, tmp_path, whole):
    plan = json.loads((whole / "synthesized.json").read_text())
    (tmp_path / "synthesized.json").write_text(json.dumps({**plan, **change}))
    with pytest.raises(ValueError, match=r"synthesized.json', which is damaged"):
        synthesis.load_synthesized(tmp_path)
    with pytest.raises(ValueError, match=r"synthesized.json', which is damaged"):
        synthesis.synthesize(**SET, path=tmp_path, verbose=0)


def test_a_manifest_of_other_rows_or_no_file_is_refused(tmp_path, whole):
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    file = folder / "synthesized.json"
    plan = json.loads(file.read_text())
    file.write_text(json.dumps({**plan, "rows": plan["rows"][:-1]}))
    with pytest.raises(ValueError, match="damaged"):
        synthesis.synthesize(**SET, path=folder, verbose=0)
    probes = [plan["probes"][0], *plan["probes"]]
    file.write_text(json.dumps({**plan, "probes": probes, "later": 1}))
    (folder / "rows-00002-of-00005.tfrecord").unlink()
    with pytest.raises(ValueError, match="damaged"):
        synthesis.synthesize(**SET, path=folder, verbose=0)
    file.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="damaged"):
        synthesis.load_synthesized(folder)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match="damaged"):
        synthesis.load_synthesized(folder)
    file.rmdir()
    file.write_text(json.dumps(plan))
    (folder / "rows-00002-of-00005.tfrecord").mkdir()
    with pytest.raises(ValueError, match="4 of 5 files: rows-00002-of-00005"):
        synthesis.load_synthesized(folder)
    with pytest.raises(ValueError, match="a folder: remove it"):
        synthesis.synthesize(**SET, path=folder, verbose=0)
    for path in ("", "a\0b"):
        with pytest.raises(ValueError, match="local folder"):
            synthesis.load_synthesized(path)


def test_a_length_that_no_file_has_is_damage(tmp_path, whole):
    """With its right checksum, of which TensorFlow would allocate all."""
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    # Length 2**40 and its masked CRC-32C.
    header = struct.pack("<QI", 2**40, masked_crc(struct.pack("<Q", 2**40)))
    (folder / "rows-00000-of-00005.tfrecord").write_bytes(header + b"x" * 50)
    with pytest.raises(ValueError, match=r"rows-00000-of-00005.tfrecord is damaged"):
        synthesis.load_synthesized(folder)


def masked_crc(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
