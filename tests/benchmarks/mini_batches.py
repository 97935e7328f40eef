"""Time and memory of a training step by mini-batches, beside plain steps of that size.

    python mini_batches.py [--rows B] [--mini-batch M] [--layers N] [--steps N]

Trains a transformer encoder (384 wide, 64 tokens, dropout 0.1) on pairs with
MultipleNegativesRankingLoss and Adam, by `fit`. One step on B pairs with
`mini_batch_size=M` embeds each pair twice, with gradient once; B / M plain steps on M pairs
embed each once, with gradient, and have M - 1 negatives for an anchor instead of B - 1.
Each way has a process of its own; the first step of each, which traces, is not timed.
There is no peer.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from harness import THREADS, forget_the_past, machine, memory

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
VOCABULARY, TOKENS, DIM = 30522, 64, 384


def transformer(num_layers):
    """Token ids `[B, TOKENS]` to embeddings `[B, DIM]`."""
    import keras
    from keras import layers

    import tfembloss

    ids = keras.Input([TOKENS], dtype="int32")
    x = layers.Embedding(VOCABULARY, DIM)(ids)
    x = tfembloss.layers.PositionEmbedding(TOKENS)(x)
    for _ in range(num_layers):
        y = layers.MultiHeadAttention(12, DIM // 12, dropout=0.1)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
        y = layers.Dense(DIM)(layers.Dense(4 * DIM, activation="gelu")(x))
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
    return keras.Model(ids, layers.GlobalAveragePooling1D()(x))


def train(num_rows, mini_batch_size, num_layers, num_steps):
    """Seconds of a step on so many rows, and MB at its peak over what was held before."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    import tfembloss

    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    model = tfembloss.EmbeddingModel(
        transformer(num_layers), mini_batch_size=mini_batch_size
    )
    model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    rng = np.random.default_rng(0)
    shape = [2, (1 + num_steps) * num_rows, TOKENS]
    x = tuple(rng.integers(VOCABULARY, size=shape, dtype="int32"))
    held = forget_the_past()
    model.fit(x, batch_size=num_rows, verbose=0, callbacks=[clock])
    return {"seconds": np.diff(ends).tolist(), "mb": memory("VmHWM") - held}


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1024, help="B")
    parser.add_argument("--mini-batch", type=int, default=32, help="M, a divisor of B")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2, help="on B rows, that are timed")
    parser.add_argument("--worker", choices=["plain", "cached"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    ratio = options.rows // options.mini_batch
    sizes = {
        "plain": (options.mini_batch, None, options.layers, ratio * options.steps),
        "cached": (options.rows, options.mini_batch, options.layers, options.steps),
    }
    if options.worker:
        print(json.dumps(train(*sizes[options.worker])))
        return
    found = {}
    for name in sizes:
        print(f"{name} ...", file=sys.stderr)
        command = [sys.executable, *sys.argv, "--worker", name]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    plain, cached = (sum(found[name]["seconds"]) / options.steps for name in sizes)
    of_plain, of_cached = (found[name]["mb"] for name in sizes)
    print(f"""
| {options.layers} layers | seconds | MB |
|---|---:|---:|
| {ratio} plain steps, B={options.mini_batch} | {plain:.1f} | {of_plain:.0f} |
| one step, B={options.rows}, mini_batch_size={options.mini_batch} | {cached:.1f} | \
{of_cached:.0f} |
| ratio | {cached / plain:.2f} | {of_cached / of_plain:.2f} |

{machine()}, {THREADS} threads.""")


if __name__ == "__main__":
    main()
