"""Makes a set of triplets in FOLDER, and stops to be killed where it scores the third file.

    python synthesize.py FOLDER

There it makes the file FOLDER.stopped and waits. `TEXTS`, `miner` and `cross_encoder` are
those of the test, too.
"""

import pathlib
import signal
import sys
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERIES = [f"query {i}" for i in range(1100)]  # five files
CORPUS = [f"article {i}" for i in range(90)]
STOP = 3  # the probe is a call, too: then come the files


def miner(texts):
    rows = [
        np.random.default_rng(zlib.crc32(text.encode())).normal(size=4) for text in texts
    ]
    return np.array(rows, "float32")


def cross_encoder(queries, articles):
    return (miner(queries) * miner(articles)).sum(axis=1)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    from tfembloss import synthesis

    folder = pathlib.Path(sys.argv[1])
    calls = []

    def stopping(queries, articles):
        calls.append(len(queries))
        if len(calls) > STOP:
            folder.with_name(folder.name + ".stopped").touch()
            signal.pause()
        return cross_encoder(queries, articles)

    synthesis.synthesize(
        QUERIES, CORPUS, miner, stopping, folder, num_relations=4, batch_size=2000
    )
