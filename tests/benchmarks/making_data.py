"""Time and memory of making training data, beside sentence-transformers and datasets.

    python making_data.py [--only REGEX] [--rounds N] [--peer-python PATH]

- mine_hard_negatives: 10,000 queries with one positive each, in 100,000 texts. What a model
  takes is not measured: embeddings of 256 dimensions are looked up. With more conditions
  the candidates are more.
- batches_without_duplicates: the dataset and an epoch of 100,000 pairs, a tenth of whose
  queries are there twice, in batches of 64; the peer is NoDuplicatesBatchSampler.
- read: an epoch of 500,000 pairs from a file, in batches of 64; the peer is
  `datasets.load_dataset` as a stream, whose rows stay Python's.
- synthesize: 10,000 queries in 20,000 texts, with a cross encoder that takes no time;
  without a peer.

Each library has its own process for each case, two each in turn, and the table has the
quicker one, with what the process took at its peak above what it held before. What is
compiled is compiled within that.
"""

import argparse
import functools
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
    DIM,
    PEERS,
    SETTINGS,
    THREADS,
    forget_the_past,
    machine,
    memory,
    peer_python,
)

QUERIES, TEXTS, ROWS, LINES = 10_000, 100_000, 100_000, 500_000
BATCH = 64


# Mining.


def embeddings(num_rows, seed):
    """Rows of length 1."""
    x = np.random.default_rng(seed).standard_normal([num_rows, DIM], dtype="float32")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def texts_to_mine():
    """Queries, texts, and what embeds both: the first texts are the queries' positives."""
    texts = embeddings(TEXTS, 0)
    queries = 0.5 * texts[:QUERIES] + 0.5 * embeddings(QUERIES, 1)
    tables = {"query": queries, "text": texts}

    def embed(of):
        return tables[of[0].split()[0]][[int(text.split()[1]) for text in of]]

    return (
        [f"query {i}" for i in range(QUERIES)],
        [f"text {i}" for i in range(TEXTS)],
        embed,
    )


def our_mining(options):
    """Ours, of given options."""
    import tfembloss

    queries, texts, embed = texts_to_mine()

    def mine(_):
        mined = tfembloss.synthesis.mine_hard_negatives(
            queries, texts, texts[:QUERIES], embed, verbose=0, **options
        )
        return len(mined.triplets()[0])

    return mine


def peer_mining(options):
    """The peer's, with a model that looks embeddings up."""
    import datasets
    import torch
    from sentence_transformers import SentenceTransformer, util

    queries, texts, embed = texts_to_mine()

    class LooksUp(SentenceTransformer):
        def encode(self, sentences, **options):
            return torch.from_numpy(embed(sentences))

        encode_query = encode_document = encode

    model = LooksUp(modules=[torch.nn.Identity()], device="cpu")
    pairs = datasets.Dataset.from_dict({"query": queries, "text": texts[:QUERIES]})

    def mine(_):
        return len(
            util.mine_hard_negatives(pairs, model, corpus=texts, verbose=False, **options)
        )

    return mine


# Batches.


def pairs():
    """Two columns of texts."""
    queries = [f"query {i}" for i in range(ROWS - ROWS // 10)]
    return queries + queries[: ROWS // 10], [f"text {i}" for i in range(ROWS)]


def our_batches():
    """Ours."""
    import tfembloss

    columns = pairs()

    def epoch(_):
        batches = tfembloss.data.batches_without_duplicates(columns, batch_size=BATCH)
        return sum(len(texts) for ((_, texts),) in batches)

    return epoch


def peer_batches():
    """The peer's."""
    import datasets
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    columns = dict(zip(["query", "text"], pairs(), strict=True))

    def epoch(_):
        dataset = datasets.Dataset.from_dict(columns)
        batches = NoDuplicatesBatchSampler(dataset, BATCH, drop_last=False)
        return sum(len(dataset[batch]["text"]) for batch in batches)

    return epoch


# Files.


def write(path):
    """Pairs in a file of the path's kind."""
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("query,article\n")
        for i in range(LINES):
            row = {"query": f"how is {i} made", "article": f"an article, the {i}th, " * 8}
            line = f'{row["query"]},"{row["article"]}"'
            print(line if path.suffix == ".csv" else json.dumps(row), file=file)


def our_reading(name):
    """Ours."""
    import tfembloss

    def epoch(folder):
        rows = tfembloss.data.read(folder / name, "query-article")
        return sum(len(articles) for ((_, articles),) in rows.batch(BATCH))

    return epoch


def peer_reading(name):
    """The peer's."""
    import datasets

    kind = {".csv": "csv", ".jsonl": "json"}[Path(name).suffix]

    def epoch(folder):
        file = str(folder / name)
        rows = datasets.load_dataset(kind, data_files=file, split="train", streaming=True)
        return sum(len(batch["article"]) for batch in rows.iter(BATCH))

    return epoch


# Synthesis.


def our_synthesis():
    """Ours."""
    import tfembloss

    queries, texts, embed = texts_to_mine()

    def synthesize(folder):
        with tempfile.TemporaryDirectory(dir=folder) as path:
            made = tfembloss.synthesis.synthesize(
                queries,
                texts[: 2 * QUERIES],
                embed,
                lambda queries, texts: np.arange(len(texts), dtype="float32"),
                os.path.join(path, "set"),
                verbose=0,
            )
            return sum(len(margins) for _, margins in made.batch(BATCH))

    return synthesize


MINING = {
    "mine_hard_negatives, the nearest 3": {"num_negatives": 3},
    "mine_hard_negatives, 5 of 100, margin 5%": {
        "num_negatives": 5,
        "range_max": 100,
        "relative_margin": 0.05,
    },
}
FILES = {"read, CSV": "pairs.csv", "read, JSON lines": "pairs.jsonl"}


def beside(ours, peer, arguments):
    """A case of both libraries for each argument."""
    return {
        name: {
            "ours": functools.partial(ours, argument),
            "peer": functools.partial(peer, argument),
        }
        for name, argument in arguments.items()
    }


CASES = {
    **beside(our_mining, peer_mining, MINING),
    "batches_without_duplicates": {"ours": our_batches, "peer": peer_batches},
    **beside(our_reading, peer_reading, FILES),
    "synthesize": {"ours": our_synthesis},
}


def work(case, library, folder):
    """One process: prints a line of JSON."""
    run = CASES[case][library]()
    unknown = float("nan")  # where there is no /proc
    held = forget_the_past() or unknown
    start = time.perf_counter()
    rows = run(folder)
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": time.perf_counter() - start,
                "mb": (memory("VmHWM") or unknown) - held,
            }
        )
    )


def measure(python, case, library, folder):
    """What a worker says."""
    command = [python, sys.argv[0], "worker", case, library, folder]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | SETTINGS
    )
    if done.returncode:
        sys.exit(f"{case}, {library}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(case, ours, peer=()):
    """Of the table: the quickest process of each library."""
    ours, peer = (
        min(said, key=lambda one: one["seconds"], default=None) for said in (ours, peer)
    )
    peers = ["-"] * 4
    if peer:
        ratio = peer["seconds"] / ours["seconds"]
        peers = [f"{peer['rows']:,}", f"{peer['seconds']:.2f}", f"{ratio:.2f}"]
        peers.append(f"{peer['mb']:.0f}")
    row = [case, f"{ours['rows']:,}", peers[0], f"{ours['seconds']:.2f}", *peers[1:3]]
    row += [f"{ours['mb']:.0f}", peers[3]]
    return f"| {' | '.join(row)} |"


def main():
    """Measures and prints; in a worker's process, its part of that."""
    if sys.argv[1:2] == ["worker"]:
        case, library, folder = sys.argv[2:]
        work(case, library, Path(folder))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases such as 'read'")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each library")
    parser.add_argument("--peer-python", help="an interpreter that has the peers")
    options = parser.parse_args()
    pythons = {"ours": sys.executable, "peer": options.peer_python or peer_python()}
    head = ["", "our rows", "the peer's", "ours s", "peer s", "peer / ours"]
    head += ["ours MB", "peer MB"]
    print(f"| {' | '.join(head)} |\n|---|" + "---:|" * (len(head) - 1))
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES.values():
            write(Path(folder, name))
        for case, libraries in CASES.items():
            if not re.search(options.only, case):
                continue
            found = {library: [] for library in libraries}
            for _ in range(options.rounds):
                for library, said in found.items():
                    said.append(measure(pythons[library], case, library, folder))
            print(line(case, **found), flush=True)
    print(f"\n{machine()}, {THREADS} threads; {', '.join(PEERS)}.")


if __name__ == "__main__":
    main()
