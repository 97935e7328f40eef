"""Trains a model with dropout and Adam, stops in mid-epoch to be killed, or goes on.

    python resume.py OUT.npz BACKUP --stop     # a whole run, then another up to the stop
    python resume.py OUT.npz BACKUP --controls # goes on from BACKUP

With TF_CONFIG in the environment it is one of two workers. At the stop it makes the file
OUT.npz.stopped and waits; of two workers the second does, the first waits for it.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import distributed as example  # noqa: E402

EPOCHS, BATCH_SIZE, STEPS = 4, 512, example.NUM_PAIRS // 512
STOP_EPOCH, STOP_STEP = 2, 1

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("backup", type=pathlib.Path)
parser.add_argument("--stop", action="store_true")
parser.add_argument("--controls", action="store_true")
arguments = parser.parse_args()

strategy = example.make_strategy("workers" if "TF_CONFIG" in os.environ else "none")

import keras  # noqa: E402

import tfembloss  # noqa: E402


class Stop(keras.callbacks.Callback):
    """Says that it has come to the place, and stays there."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (STOP_EPOCH, STOP_STEP):
            pathlib.Path(f"{arguments.out}.stopped").touch()
            while True:
                signal.pause()


def make_model():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(8),
        ]
    )
    model = tfembloss.EmbeddingModel(encoder)
    model.build((None, example.DIM))
    model.compile(
        keras.optimizers.Adam(0.01), loss=tfembloss.losses.MultipleNegativesRankingLoss()
    )
    return model


def train(backup=None, count=True, stop=False):
    """All the numbers that a model has after training, by name."""
    with strategy.scope():
        model = make_model()
    batches, count_epochs = example.make_batches(example.make_pairs(), BATCH_SIZE)
    callbacks = [count_epochs] if count else []
    if backup:
        callbacks.append(example.make_backup(backup, strategy))
        callbacks.append(example.check_start(strategy, STEPS))
    if stop:
        callbacks.append(Stop())
    history = model.fit(
        batches, epochs=EPOCHS, callbacks=callbacks, shuffle=False, verbose=0
    )
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    numbers = {
        f"{part} {i} {variable.name}": variable.numpy()
        for part, variables in parts.items()
        for i, variable in enumerate(variables)
    }
    return {**numbers, "epochs": history.epoch}


if arguments.stop:
    # The whole run is here and not in a process of its own to import TensorFlow once less.
    np.savez(arguments.out, **train())
    second = '"index": 1' in os.environ.get("TF_CONFIG", "")
    train(arguments.backup, stop=second or "TF_CONFIG" not in os.environ)
    sys.exit("It was to be killed before this line.")

copies = [arguments.backup.with_name(f"copy-{i}") for i in range(2)]
if arguments.controls:
    for copy in copies:
        shutil.copytree(arguments.backup, copy)
results = {"resumed": train(arguments.backup)}
if arguments.controls:
    results["same order each time"] = train(copies[0], count=False)
    # As Keras alone would: where random layers stand is not in its files.
    tfembloss.models.base.ColumnModel._seed_states = lambda self: []
    results["without seed states"] = train(copies[1])
np.savez(
    arguments.out,
    **{f"{run}/{k}": x for run, part in results.items() for k, x in part.items()},
)
