"""Fine-tunes a pretrained BERT for semantic search, from a Hugging Face checkpoint folder.

    pip install ".[hub]"
    python examples/finetune_pretrained.py FOLDER    # trains, measures, exports: minutes
    python examples/finetune_pretrained.py FOLDER --peer-python PYTHON    # compares first

FOLDER contains config.json, model.safetensors and vocab.txt or tokenizer.json. If it
contains settings of sentence-transformers, they are used: length, pooling, normalization.
PYTHON is an interpreter with sentence-transformers, if this one does not have it: the
embeddings are compared with that library's before training. The encoder is trained on the
pairs of search_api_docs.py, and evaluated before and after on queries that it has not seen.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text
from search_api_docs import (
    METRICS,
    SAMPLE_QUERIES,
    SAVED_MODELS,
    held_out,
    make_pairs,
    print_measured,
    read_docstrings,
)

import tfembloss

MODEL = SAVED_MODELS / "finetuned-encoder"
INDEX = SAVED_MODELS / "finetuned-encoder-index.npz"
TOLERANCE = 1e-4
ODD_TEXTS = [
    "",
    "Straße, Ærø, naïve CAFÉ, İstanbul",
    "Ελληνικά και русский ЁЖИК",
    "中文字符 and 日本語のテキスト and 한국어",
    "emoji 👩‍👩‍👧 😀 and ﬁne … ½ ligatures",
    "tab\tnew\nline, zero\u200bwidth, nul\x00",
    "x_1.T @ y[:, 0] != '«quoted»'",
    "long " * 1000,
]


# The checkpoint.


def read_settings(folder):
    """Reads the settings of an encoder from the files of its checkpoint.

    Raises ValueError if it is not a BERT, or has settings that are not supported here.
    """
    _check_files(folder)
    config = _read(folder, "config.json")
    tokenizer = _read(folder, "tokenizer_config.json")
    sentence = _read(folder, "sentence_bert_config.json")
    prompts = _read(folder, "config_sentence_transformers.json")
    lower_case = tokenizer.get("do_lower_case", True)
    modules, pooling = _modules_and_pooling(folder)
    mean = ["Transformer", "Pooling"]
    for what, value, *supported in (
        ("hidden_act", config.get("hidden_act", "gelu"), "gelu", "relu"),
        ("layer_norm_eps", config.get("layer_norm_eps", 1e-12), 1e-12),
        ("positions", config.get("position_embedding_type", "absolute"), "absolute"),
        (
            "tokenizer_class",
            tokenizer.get("tokenizer_class", "BertTokenizer"),
            "BertTokenizer",
            "BertTokenizerFast",
        ),
        ("tokenize_chinese_chars", tokenizer.get("tokenize_chinese_chars", True), True),
        ("strip_accents", tokenizer.get("strip_accents"), None, lower_case),
        (
            "sentence-transformers' do_lower_case",
            sentence.get("do_lower_case", False),
            False,
            lower_case,
        ),
        ("default_prompt_name", prompts.get("default_prompt_name"), None),
        ("modules", modules, mean, [*mean, "Normalize"]),
        ("pooling", pooling, "mean"),
    ):
        if value not in supported:
            raise ValueError(
                f"Expected {what} to be {' or '.join(map(str, supported))}: nothing else "
                f"is supported here. Received: {value} in {folder}. Take another one."
            )
    longest = sentence.get("max_seq_length") or tokenizer.get("model_max_length", 512)
    return {
        "activation": config.get("hidden_act", "gelu"),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "num_segments": config.get("type_vocab_size", 2),
        "sequence_length": min(longest, config.get("max_position_embeddings", 512)),
        "lower_case": lower_case,
        "normalize": "Normalize" in modules,
    }


def _check_files(folder):
    patterns = ("config.json", "model*.safetensors", "vocab.txt", "tokenizer.json")
    there = [pattern for pattern in patterns if any(folder.glob(pattern))]
    model_type = _read(folder, "config.json").get("model_type")
    has_vocabulary = "vocab.txt" in there or "tokenizer.json" in there
    if model_type != "bert" or "model*.safetensors" not in there or not has_vocabulary:
        raise ValueError(
            "Expected a folder with a BERT checkpoint as Hugging Face's libraries save it: "
            "config.json with model_type 'bert', model.safetensors, and vocab.txt or "
            f"tokenizer.json. Received: {folder} with {' and '.join(there) or 'none'} of "
            f"these, model_type={model_type!r}. An older checkpoint gets such files when a "
            "current transformers or sentence-transformers loads it and saves it with "
            "save_pretrained."
        )


def _modules_and_pooling(folder):
    """Returns sentence-transformers' modules and pooling, or its defaults."""
    modules = _read(folder, "modules.json") or [
        {"type": "Transformer"},
        {"type": "Pooling"},
    ]
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    pooling = {}
    for kind, module in zip(kinds, modules, strict=True):
        if kind == "Pooling":
            pooling = _read(folder, f"{module.get('path')}/config.json")
    # New files have one name, old ones a flag for each mode.
    on = (key for key, value in pooling.items() if value is True and "_mode_" in key)
    old = " and ".join(re.sub("pooling_mode_|_tokens?", "", key) for key in on)
    return kinds, pooling.get("pooling_mode") or old or "mean"


def _read(folder, name):
    path = folder / name
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def read_vocabulary(folder):
    """Reads the entries of the vocabulary in the order of their ids."""
    if (folder / "vocab.txt").exists():
        return (folder / "vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")
    ids = _read(folder, "tokenizer.json")["model"]["vocab"]
    return sorted(ids, key=ids.get)


def load_encoder(folder, settings):
    """Loads a Keras model from token ids `[rows, T]`, with 0 as padding, to embeddings."""
    import keras_hub

    try:
        bert = keras_hub.models.BertBackbone.from_preset(
            str(folder.resolve()),  # a path: a name could be that of a preset to download
            num_segments=settings["num_segments"],
            dropout=settings["dropout"],
        )
    except Exception as error:
        raise ValueError(
            "Expected weights that keras-hub can read, those of a whole BertModel, its "
            f"pooler included. Received: {folder}, of which it says: {error}. Saving it "
            "again with transformers' BertModel.from_pretrained(...).save_pretrained(...) "
            "adds what is missing."
        ) from error
    tokens = keras.Input([None], dtype="int32", name="tokens")
    seen = keras.ops.not_equal(tokens, 0)
    words = bert.token_embedding(tokens)
    segments = bert.segment_embedding(keras.ops.zeros_like(tokens))
    x = bert.embeddings_add((words, bert.position_embedding(words), segments))
    x = bert.embeddings_dropout(bert.embeddings_layer_norm(x))
    for block in bert.transformer_layers:
        # keras-hub always approximates gelu, an error of 5e-4 in an embedding.
        config = {**block.get_config(), "activation": settings["activation"]}
        exact = type(block).from_config(config)
        x = exact(x, padding_mask=seen)
        exact.set_weights(block.get_weights())
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x, mask=seen)
    if settings["normalize"]:
        x = keras.layers.UnitNormalization(name="normalize")(x)
    return keras.Model(tokens, x, name="sentence_bert")


@keras.saving.register_keras_serializable("finetune_pretrained")
class BertPreprocessor:
    """Converts texts to the token ids of BERT's tokenizer, including [CLS] and [SEP].

    Texts are lower-cased as in Hugging Face's tokenizers; tensorflow-text would also
    replace ß with ss and … with three dots. A "[MASK]" in a text is three words.

    Call arguments: texts `[rows]`, strings. Returns token ids `[rows, T]`, int32, padded
    with 0 to the longest text.

    Args:
        vocabulary: list of entries, `"[PAD]"` first.
        sequence_length: the maximum number of tokens; longer texts are truncated.
        lower_case: whether to lower-case texts and to strip accents.
    """

    def __init__(self, vocabulary, sequence_length, lower_case=True):
        missing = {"[UNK]", "[CLS]", "[SEP]"} - set(vocabulary)
        if vocabulary[0] != "[PAD]" or missing:
            raise ValueError(
                "Expected a BERT vocabulary: [PAD] first, and [UNK], [CLS] and [SEP]. "
                f"Received: {len(vocabulary)} entries, the first of them {vocabulary[:3]}, "
                f"without {sorted(missing)}"
            )
        self.vocabulary = vocabulary
        self.sequence_length = sequence_length
        self.lower_case = lower_case
        self._ends = [vocabulary.index("[CLS]")], [vocabulary.index("[SEP]")]
        self._tokenizer = tensorflow_text.FastBertTokenizer(
            vocabulary, token_out_type=tf.int32, lower_case_nfd_strip_accents=False
        )

    def __call__(self, texts):
        """Returns token ids `[rows, T]` of texts `[rows]`."""
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        texts = tf.strings.regex_replace(texts, r"[\t\n\r]", " ")
        # Control characters, and the replacement of bytes that are not UTF-8.
        texts = tf.strings.regex_replace(texts, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
        if self.lower_case:
            texts = tensorflow_text.normalize_utf8(texts, "NFD")
            texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
            texts = tf.strings.lower(texts, encoding="utf-8")
        tokens = self._tokenizer.tokenize(texts)[:, : self.sequence_length - 2]
        start, end = (tf.tile([ids], [tf.shape(texts)[0], 1]) for ids in self._ends)
        return tf.concat([start, tokens, end], axis=1).to_tensor(0)

    def get_config(self):
        """Returns the arguments of this preprocessor."""
        return {
            "vocabulary": self.vocabulary,
            "sequence_length": self.sequence_length,
            "lower_case": self.lower_case,
        }

    @classmethod
    def from_config(cls, config):
        """Creates a preprocessor from its config."""
        return cls(**config)


# Comparison with sentence-transformers.

PEER = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu").float()
np.savez(sys.argv[2], embeddings=model.encode(json.load(sys.stdin)))
"""


def peer_embeddings(python, folder, texts):
    """Embeds texts with sentence-transformers, possibly in another interpreter."""
    with tempfile.TemporaryDirectory() as scratch:
        path = str(pathlib.Path(scratch, "embeddings.npz"))
        subprocess.run(
            [python, "-c", PEER, str(folder.resolve()), path],
            input=json.dumps(texts),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # the folder is all that it needs
            text=True,
            check=True,
        )
        return np.load(path)["embeddings"]


def compare(model, folder, texts, python):
    """Prints the difference from sentence-transformers' embeddings; exits if too large."""
    special = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK)\]")  # there they are tokens
    texts = [text for text in texts if not special.search(text)]
    ours = model.predict(texts, verbose=0)
    difference = np.abs(ours - peer_embeddings(python, folder, texts)).max(axis=1)
    print(
        f"\nsentence-transformers' embeddings of {len(texts)} texts differ by at most "
        f"{difference.max():.1e}; {TOLERANCE:.0e} is allowed"
    )
    if not difference.max() <= TOLERANCE:
        sys.exit(f"Too much, in the text {texts[difference.argmax()][:200]!r}")


# Training.


def measure(model, queries, documents, relevant):
    """Computes retrieval metrics of the queries, and the documents' embeddings."""
    print("Embedding the documents, then the held-out queries")
    corpus = model.predict(documents, batch_size=64)
    _, ranking = tfembloss.search.top_k(model.predict(queries, batch_size=64), corpus, 10)
    return tfembloss.evaluation.retrieval_metrics(ranking, relevant, METRICS), corpus


def finetune(model, queries, documents, arguments):
    """Trains with in-batch negatives and AdamW, with warmup and cosine decay."""
    steps = arguments.epochs * math.ceil(len(queries) / arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        warmup_target=arguments.learning_rate,
        warmup_steps=max(1, steps // 10),
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01),
        loss=tfembloss.losses.MultipleNegativesRankingLoss(),
    )
    model.fit(
        (queries, documents), batch_size=arguments.batch_size, epochs=arguments.epochs
    )


def main(encoder, settings, arguments):
    """Compares, trains, evaluates and exports the encoder."""
    vocabulary = read_vocabulary(arguments.folder)

    def embedding_model(sequence_length):
        preprocess = BertPreprocessor(vocabulary, sequence_length, settings["lower_case"])
        return tfembloss.EmbeddingModel(encoder, preprocess)

    names, queries, documents = make_pairs(read_docstrings())
    if arguments.peer_python:
        sample = [*ODD_TEXTS, *queries[::100], *documents[::100]]
        model = embedding_model(settings["sequence_length"])
        compare(model, arguments.folder, sample, arguments.peer_python)
    else:
        print("\nNot compared: no sentence-transformers here, and no --peer-python")

    keras.utils.set_random_seed(0)
    test = [row for row, query in enumerate(queries) if held_out(query)]
    train = [row for row, query in enumerate(queries) if not held_out(query)]
    chosen = random.sample(train, min(arguments.pairs, len(train)))
    length = min(arguments.sequence_length, settings["sequence_length"])
    print(
        f"\n{len(documents)} documents; {len(chosen)} of {len(train)} queries train, "
        f"{len(test)} are held out. Texts are cut at {length} tokens."
    )
    model, test_queries = embedding_model(length), [queries[row] for row in test]
    before, _ = measure(model, test_queries, documents, test)
    finetune(
        model,
        [queries[row] for row in chosen],
        [documents[row] for row in chosen],
        arguments,
    )
    after, corpus = measure(model, test_queries, documents, test)
    print_measured(test_queries, documents, test, {"before": before, "after": after})

    tfembloss.export_encoder(model, MODEL)
    embeddings = keras.utils.normalize(corpus).astype("float16")
    np.savez(INDEX, names=names, sentences=queries, embeddings=embeddings)
    print(
        f"\nExported to {MODEL.relative_to(SAVED_MODELS.parent)}. A fresh process answers:"
    )
    subprocess.run(
        [sys.executable, "-c", ANSWER, str(MODEL), str(INDEX), *SAMPLE_QUERIES],
        cwd=pathlib.Path(__file__).parent,
        check=True,
    )


# Serving: search_api_docs answers queries with this model and index. It needs neither of
# the two packages that made them.

ANSWER = """
import pathlib, sys
import search_api_docs

search_api_docs.MODEL, search_api_docs.INDEX = map(pathlib.Path, sys.argv[1:3])
search_api_docs.answer(sys.argv[3:])
assert "keras_hub" not in sys.modules and "tfembloss" not in sys.modules
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="a BERT checkpoint's files")
    parser.add_argument(
        "--peer-python",
        metavar="PYTHON",
        help="an interpreter that has sentence-transformers; by default this one if it has",
        default=sys.executable if find_spec("sentence_transformers") else None,
    )
    parser.add_argument("--pairs", type=int, default=3072, help="the most to train on")
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    arguments = parser.parse_args()
    for package in ("keras_hub", "safetensors"):
        if find_spec(package) is None:
            parser.error(f'{package} is missing: pip install ".[hub]"')
    try:
        settings = read_settings(arguments.folder)
        encoder = load_encoder(arguments.folder, settings)
    except ValueError as error:
        parser.error(str(error))
    main(encoder, settings, arguments)
