"""Encoding and fine-tuning of a pretrained checkpoint, beside sentence-transformers.

    python pretrained.py FOLDER ... [--only REGEX] [--rounds N] [--peer-python PATH]

Each FOLDER is a checkpoint that both libraries load. The texts are those of
examples/search_api_docs.py: first sentences of docstrings and the rest of them.

- encode: 4,000 texts of mixed lengths, half of them sentences, by `predict` and `encode`,
  in batches of 32. Both sort them by length. A first call is not timed.
- train, 64 tokens: pairs in batches of 64, MultipleNegativesRankingLoss and AdamW, dropout
  as the checkpoint says; ours by `fit`, the peer's in a loop of its own without a trainer.
  The first step, which traces, is not timed; "first step" is when it ends, from the
  process's start. The second texts are cut at 64 tokens.
- train, 256 tokens: the same, in batches of 32 pairs.

Each library has its own process for each case, in turn, and the table has the quicker one,
with what the process took at its peak above what it held before the model was loaded. The
share is that of the rate of one plain product of two matrices [2048, 2048] in the same
process, counting the products that the tokens need without padding.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import (
    PEERS,
    SETTINGS,
    THREADS,
    forget_the_past,
    machine,
    memory,
    peer_python,
)

TEXTS, STEPS = 4000, 10
CASES = {"encode": (None, 32), "train, 64 tokens": (64, 64), "train, 256 tokens": (256, 32)}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def texts():
    """Sentences and documents, as many of each as any case needs."""
    sys.path.insert(0, str(EXAMPLES))
    import search_api_docs

    _, queries, documents = search_api_docs.make_pairs(search_api_docs.read_docstrings())
    rows = np.random.default_rng(0).permutation(len(queries))
    return [[column[row] for row in rows] for column in (queries, documents)]


# Each of a library's functions returns seconds: of encoding all texts, or of each step.


def our_encoding(folder, length, batch_size, columns):
    """By `predict`."""
    import tfembloss

    model = tfembloss.EmbeddingModel.from_pretrained(folder)
    given = columns[0][: TEXTS // 2] + columns[1][: TEXTS // 2]
    model.predict(given[:: TEXTS // 100], batch_size, verbose=0)
    start = time.perf_counter()
    model.predict(given, batch_size, verbose=0)
    return [time.perf_counter() - start]


def peer_encoding(folder, length, batch_size, columns):
    """By `encode`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    given = columns[0][: TEXTS // 2] + columns[1][: TEXTS // 2]
    model.encode(given[:: TEXTS // 100], batch_size=batch_size)
    start = time.perf_counter()
    model.encode(given, batch_size=batch_size)
    return [time.perf_counter() - start]


def our_training(folder, length, batch_size, columns):
    """By `fit`."""
    import keras

    import tfembloss

    model = tfembloss.EmbeddingModel.from_pretrained(folder, sequence_length=length)
    loss = tfembloss.losses.MultipleNegativesRankingLoss()
    model.compile(keras.optimizers.AdamW(2e-5), loss=loss)
    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    rows = (1 + STEPS) * batch_size
    x = tuple(column[:rows] for column in columns)
    model.fit(x, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[clock])
    return ends


def peer_training(folder, length, batch_size, columns):
    """In a loop."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(folder, device="cpu")
    model.max_seq_length = length
    loss = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5)
    model.train()
    ends = []
    for step in range(1 + STEPS):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        value = loss([model.preprocess(column[rows]) for column in columns], None)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        value.item()
        ends.append(time.perf_counter())
    return ends


RUN = {
    "ours": (our_encoding, our_training),
    "peer": (peer_encoding, peer_training),
}


def work(library, case, folder, path):
    """One process: prints a line of JSON."""
    length, batch_size = CASES[case]
    columns = json.loads(Path(path).read_text())
    if library == "ours":
        import tensorflow  # noqa: F401  not counted as memory of the model

        import tfembloss  # noqa: F401
    else:
        import sentence_transformers  # noqa: F401
    held = forget_the_past()
    found = RUN[library][length is not None](folder, length, batch_size, columns)
    mb = memory("VmHWM") - held
    seconds = found[0] if length is None else float(np.mean(np.diff(found)))
    first = None if length is None else found[0] - START
    said = {"seconds": seconds, "mb": mb, "first": first, "rate": rate(library)}
    print(json.dumps(said))


def rate(library):
    """Floating-point operations per second of a plain product of matrices."""
    x = np.random.default_rng(0).normal(size=[2048, 2048]).astype("float32")
    if library == "ours":
        import tensorflow as tf

        multiply, x = tf.function(tf.matmul), tf.constant(x)
    else:
        import torch

        multiply, x = torch.matmul, torch.from_numpy(x)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        np.asarray(multiply(x, x))
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def operations(folder, case, columns):
    """Floating-point operations of a case, or of a step, of products without padding."""
    import tfembloss

    length, batch_size = CASES[case]
    model = tfembloss.EmbeddingModel.from_pretrained(folder, sequence_length=length)
    rows = (
        slice(TEXTS // 2) if length is None else slice(batch_size, batch_size * (1 + STEPS))
    )
    given = [text for column in columns for text in column[rows]]
    masks = (model.preprocessor(given[i : i + 256]) for i in range(0, len(given), 256))
    tokens = np.concatenate([x["padding_mask"].numpy().sum(1) for x in masks]).astype(float)
    config = json.loads(model.encoder.config)
    dim = config.get("hidden_size") or config["dim"]
    layers = config.get("num_hidden_layers") or config["n_layers"]
    inner = config.get("intermediate_size") or config["hidden_dim"]
    of_token = 2 * (4 * dim * dim + 2 * dim * inner)
    total = layers * (of_token * tokens + 4 * dim * tokens**2).sum()
    return total if length is None else 3 * total / STEPS


def measure(python, library, case, folder, path):
    """What a worker says."""
    command = [python, sys.argv[0], "worker", library, case, folder, path]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | SETTINGS
    )
    if done.returncode:
        sys.exit(f"{case}, {library}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(name, case, said, count, operations):
    """A row of the table: the quicker process of each library."""
    ours, peer = (min(x, key=lambda one: one["seconds"]) for x in said.values())
    both = ours, peer
    row = [name, case, *(f"{count / x['seconds']:.1f}" for x in both)]
    row.append(f"{peer['seconds'] / ours['seconds']:.2f}")
    row += [f"{x['mb']:.0f}" for x in both]
    row += [f"{operations / x['seconds'] / x['rate']:.0%}" for x in both]
    row += ["-" if x["first"] is None else f"{x['first']:.1f}" for x in both]
    return f"| {' | '.join(row)} |"


def main():
    """Measures and prints; in a worker's process, its part of that."""
    if sys.argv[1:2] == ["worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--only", default="", help="cases such as 'encode'")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each library")
    parser.add_argument("--peer-python", help="an interpreter that has the peers")
    options = parser.parse_args()
    pythons = {"ours": sys.executable, "peer": options.peer_python or peer_python()}
    columns = texts()
    head = ["checkpoint", "case", "ours / s", "peer / s", "ratio", "ours MB", "peer MB"]
    head += ["our share", "peer's", "our first step, s", "peer's"]
    print(f"| {' | '.join(head)} |\n|---|---|" + "---:|" * (len(head) - 2), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = str(Path(scratch, "texts.json"))
        Path(path).write_text(json.dumps(columns))
        for folder in map(os.path.abspath, options.folders):
            for case, (length, batch_size) in CASES.items():
                if not re.search(options.only, case):
                    continue
                said = {library: [] for library in pythons}
                for _ in range(options.rounds):
                    for library, python in pythons.items():
                        said[library].append(measure(python, library, case, folder, path))
                count = TEXTS if length is None else batch_size
                needed = operations(folder, case, columns)
                print(line(Path(folder).name, case, said, count, needed), flush=True)
    print(f"\n{machine()}, {THREADS} threads; {', '.join(PEERS)}.")


START = time.perf_counter()
if __name__ == "__main__":
    main()
