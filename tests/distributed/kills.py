"""Kills a training at random, again and again, until it has come to its end.

    python kills.py FOLDER NUM_KILLS NUM_REPLICAS

Writes FOLDER/whole.npz of a training that was left alone, FOLDER/killed.npz of the other,
and prints at which step each process began and ended. Every training is a process of its
own, forked before TensorFlow starts, as importing it takes longer than the training.
"""

import argparse
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import keras
import numpy as np
import tensorflow as tf

import tfembloss

EPOCHS, STEPS = 3, 15

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("num_kills", type=int)
parser.add_argument("num_replicas", type=int)
arguments = parser.parse_args()


class Progress(keras.callbacks.Callback):
    """Writes down how many steps are done, for the process that kills."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_batch_end(self, batch, logs=None):
        steps = int(self.model.optimizer.iterations.numpy())
        with self.path.open("a") as file:
            file.write(f"{steps}\n")


def make_strategy():
    if arguments.num_replicas == 1:
        return tf.distribute.get_strategy()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * arguments.num_replicas,
    )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(arguments.num_replicas)]
    )


def train(out, *callbacks):
    """Weights, states of dropout and optimizer, and the memory, after all epochs."""
    strategy = make_strategy()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, 7 * STEPS - 4, 6]).astype("float32")  # the last is uneven
    with strategy.scope():
        layers = [keras.Input([6]), keras.layers.Dense(8), keras.layers.Dropout(0.5)]
        model = tfembloss.EmbeddingModel(
            keras.Sequential(layers), memory=tfembloss.layers.CrossBatchMemory(16)
        )
        model.compile(
            keras.optimizers.Adam(0.01),
            tfembloss.losses.MultipleNegativesRankingLoss(),
            # Without a graph, whose making would take longer than the training.
            run_eagerly=arguments.num_replicas == 1,
        )
    model.fit(tuple(x), batch_size=7, epochs=EPOCHS, callbacks=list(callbacks), verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    np.savez(out, *[variable.numpy() for variable in variables])


def fork(*arguments):
    """The number of a process that trains."""
    pid = os.fork()
    if pid:
        return pid
    try:
        train(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def steps_done(progress):
    """The numbers of the steps; one that is skipped, as done before, has the last one."""
    steps = progress.read_text().split() if progress.exists() else []
    return list(dict.fromkeys(steps))


def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main():
    out, progress = arguments.folder / "killed.npz", arguments.folder / "steps"
    whole = fork(arguments.folder / "whole.npz")
    if os.waitpid(whole, 0)[1] != 0:
        sys.exit("The training that was left alone failed.")
    random.seed(0)
    for number in range(arguments.num_kills + 1):
        progress.unlink(missing_ok=True)
        checkpoint = tfembloss.callbacks.ResumableCheckpoint(
            arguments.folder / "backup", save_freq=1
        )
        pid = fork(out, Progress(progress), checkpoint)
        if number < arguments.num_kills:
            # Within the steps, wherever the process is: in one, or as it saves.
            to_do = 2 + random.randrange(EPOCHS * STEPS // arguments.num_kills - 1)
            while len(steps_done(progress)) < to_do and not has_ended(pid):
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        done = steps_done(progress)
        print(f"killed by {os.WTERMSIG(status)}," if status else "ended,", end=" ")
        print(f"steps {done[0]} to {done[-1]}", flush=True)


main()
