"""A step of a mixture of tasks beside that step alone, and memory of the whole process.

    python several_tasks.py [--tasks N] [--steps S] [--rows B] [--rounds R]

Trains a TextEncoder (384 dimensions, two layers) on pairs of texts of 64 tokens, with
MultipleNegativesRankingLoss and Adam, by `fit`: as an EmbeddingModel, and as N tasks of a
MultiTaskModel with as many datasets. Each runs in a process of its own, in turn. There is
no peer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from harness import SETTINGS, THREADS, WARM_UPS, machine, memory

NUM_TOKENS = 64


def measure(num_tasks, num_rows, num_steps):
    """Returns seconds of each step after each task was traced, and MB of the process."""
    import keras

    import tfembloss

    ends = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append(time.perf_counter())

    vocabulary_size = 8000
    encoder = tfembloss.text.TextEncoder(vocabulary_size, dim=384, dropout=0.0)
    names = [f"task_{i}" for i in range(num_tasks)]
    total = max(num_tasks, 1) * (WARM_UPS + num_steps) * num_rows
    rng = np.random.default_rng(0)
    x = tuple(rng.integers(2, vocabulary_size, [2, total, NUM_TOKENS]).astype("int32"))
    loss = tfembloss.losses.MultipleNegativesRankingLoss()
    options = {"batch_size": num_rows, "verbose": 0, "callbacks": [Clock()]}
    if num_tasks:
        tasks = {name: tfembloss.EmbeddingModel(encoder) for name in names}
        model = tfembloss.MultiTaskModel(tasks)
        model.compile("adam", dict.fromkeys(names, loss))
        parts = (np.split(column, num_tasks) for column in x)
        x = dict(zip(names, zip(*parts, strict=True), strict=True))
        model.fit(x, mixing="round_robin", **options)
    else:
        model = tfembloss.EmbeddingModel(encoder)
        model.compile("adam", loss)
        model.fit(x, **options)
    times = np.diff(ends)[max(num_tasks, 1) * WARM_UPS - 1 :]
    return times.tolist(), memory("VmHWM") or float("nan")


def main():
    """Measures in processes of their own, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a task, that are timed")
    parser.add_argument("--rows", type=int, default=32, help="of a batch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        print(json.dumps(measure(options.worker, options.rows, options.steps)))
        return
    found = {0: [], options.tasks: []}
    for _ in range(options.rounds):
        for num_tasks in found:
            command = [sys.executable, __file__, "--worker", str(num_tasks)]
            command += ["--rows", str(options.rows), "--steps", str(options.steps)]
            run = subprocess.run(
                command, env={**os.environ, **SETTINGS}, capture_output=True, check=True
            )
            found[num_tasks].append(json.loads(run.stdout.splitlines()[-1]))
    print("| tasks | ms a step, median of each round | MB of the process at its peak |")
    print("|---|---:|---:|")
    for num_tasks, rounds in found.items():
        medians = [f"{1000 * statistics.median(times):.0f}" for times, _ in rounds]
        peaks = [f"{peak:.0f}" for _, peak in rounds]
        title = f"{num_tasks} in turn" if num_tasks else "1, an EmbeddingModel"
        print(f"| {title} | {', '.join(medians)} | {', '.join(peaks)} |")
    print(f"\n{machine()}, {THREADS} threads, {options.rows} pairs in a batch.")


if __name__ == "__main__":
    main()
