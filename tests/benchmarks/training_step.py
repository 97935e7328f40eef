"""Time of a training step with very many classes, and memory of the whole process.

    python training_step.py [--classes C] [--sampled S] [--rows B] [--steps N]

Trains a dense layer from 256 to 256 dimensions and the centres of C classes by CosFaceLoss
and Adam, with `fit`. A step scores S classes, those of its rows and a random rest; with
`--sampled 0` it scores all. There is no peer.
"""

import argparse
import os
import statistics
import time

import numpy as np
from harness import DIM, THREADS, WARM_UPS, machine, memory

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def measure(num_classes, num_sampled, num_rows, num_steps):
    """Milliseconds of each step of `fit` but the first ones, which compile."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    import tfembloss

    ends = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append(time.perf_counter())

    model = tfembloss.EmbeddingClassifier(
        keras.Sequential([keras.layers.Dense(DIM)]),
        tfembloss.layers.CosineHead(num_classes),
        num_sampled=num_sampled,
    )
    model.compile("adam", loss=tfembloss.losses.CosFaceLoss())
    rng = np.random.default_rng(0)
    rows = (WARM_UPS + num_steps) * num_rows
    x = rng.standard_normal([rows, DIM], dtype="float32")
    y = rng.integers(0, num_classes, rows)
    model.fit(x, y, batch_size=num_rows, verbose=0, callbacks=[Clock()])
    return 1000 * np.diff(ends)[WARM_UPS - 1 :]


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--sampled", type=int, default=4096, help="0: all classes")
    parser.add_argument("--rows", type=int, default=256, help="of a batch")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    options = parser.parse_args()
    sampled = options.sampled or None
    milliseconds = measure(options.classes, sampled, options.rows, options.steps)
    print(
        f"CosFaceLoss, {options.classes} classes, num_sampled={sampled}, "
        f"B={options.rows}: {statistics.median(milliseconds):.0f} ms a step, the process "
        f"{memory('VmHWM') or float('nan'):.0f} MB at its peak.\n\n"
        f"{machine()}, {THREADS} threads."
    )


if __name__ == "__main__":
    main()
