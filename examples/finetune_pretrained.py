"""Fine-tunes a pretrained encoder for semantic search, and saves it for both worlds.

    pip install ".[hub]"
    python examples/finetune_pretrained.py FOLDER    # trains, measures, exports: minutes
    python examples/finetune_pretrained.py FOLDER --peer-python PYTHON    # compares as well

FOLDER is a text encoder as Hugging Face or sentence-transformers save it. PYTHON is an
interpreter that has sentence-transformers: embeddings are compared with that library's,
before and after training on the pairs of search_api_docs.py.
"""

import argparse
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import keras
import numpy as np
import search_api_docs as data

import tfembloss

FINETUNED = data.SAVED_MODELS / "finetuned"
ODD_TEXTS = ["", "Straße, İstanbul", "русский 中文 한국어", "👩‍👩‍👧 ﬁne … ½", "[SEP] </s>"]
PEER = """
import json, sys, numpy
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu").float()
model.max_seq_length = int(sys.argv[2])
numpy.save(sys.argv[3], model.encode(json.load(sys.stdin)))
"""
ANSWER = """
import pathlib, sys, search_api_docs as data
data.MODEL, data.INDEX = map(pathlib.Path, sys.argv[1:3])
data.answer(sys.argv[3:])  # needs none of the packages that made them
"""


def compare(model, folder, texts, python):
    """Prints how far sentence-transformers' embeddings of the same folder are from ours."""
    with tempfile.TemporaryDirectory() as scratch:
        path, length = f"{scratch}/embeddings.npy", str(model.preprocessor.sequence_length)
        subprocess.run(
            [python, "-c", PEER, str(folder.resolve()), length, path],
            input=json.dumps(texts),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            text=True,
            check=True,
        )
        difference = np.abs(model.predict(texts, verbose=0) - np.load(path)).max()
    print(f"{folder}: embeddings differ by {difference:.1e} from sentence-transformers'")
    if not difference < 1e-4:
        sys.exit("Expected at most 1e-4: please report this checkpoint.")


def main(model, arguments):
    """Compares, trains, evaluates, saves and exports."""
    names, queries, documents = data.make_pairs(data.read_docstrings())
    test = [row for row, query in enumerate(queries) if data.held_out(query)]
    train = [row for row, query in enumerate(queries) if not data.held_out(query)]
    keras.utils.set_random_seed(0)
    train = random.sample(train, min(arguments.pairs, len(train)))
    print(f"{len(documents)} documents; {len(train)} queries train, {len(test)} do not")

    sample = [*ODD_TEXTS, *queries[::100], *documents[::100]]
    if arguments.peer_python:
        compare(model, arguments.folder, sample, arguments.peer_python)

    test_queries = [queries[row] for row in test]
    evaluator = tfembloss.evaluation.RetrievalEvaluator(
        test_queries, documents, test, data.METRICS, batch_size=64
    )
    before = evaluator.evaluate(model)
    steps = arguments.epochs * math.ceil(len(train) / arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=arguments.learning_rate, warmup_steps=max(1, steps // 10)
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01),
        loss=tfembloss.losses.MultipleNegativesRankingLoss(),
    )
    model.fit(
        ([queries[row] for row in train], [documents[row] for row in train]),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
    )
    after = evaluator.evaluate(model)
    data.print_measured(test_queries, documents, test, {"before": before, "after": after})

    model.save_pretrained(FINETUNED, metrics=after)  # for sentence-transformers
    if arguments.peer_python:
        compare(model, FINETUNED, sample, arguments.peer_python)
    export, index = f"{FINETUNED}-encoder", f"{FINETUNED}-encoder-index.npz"
    tfembloss.export_encoder(model, export)  # for TensorFlow Serving
    embeddings = keras.utils.normalize(model.predict(documents, 64, verbose=0))
    np.savez(index, names=names, sentences=queries, embeddings=embeddings.astype("float16"))
    print("\nExported to saved_models/finetuned-encoder. A fresh process answers:")
    command = [sys.executable, "-c", ANSWER, export, index, *data.SAMPLE_QUERIES]
    subprocess.run(command, cwd=pathlib.Path(__file__).parent, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="the files of a checkpoint")
    parser.add_argument("--peer-python", metavar="PYTHON", help="to compare embeddings")
    parser.add_argument("--pairs", type=int, default=3072, help="the most to train on")
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    arguments = parser.parse_args()
    model = tfembloss.EmbeddingModel.from_pretrained(
        arguments.folder, sequence_length=arguments.sequence_length
    )
    main(model, arguments)
