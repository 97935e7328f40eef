"""Trains the same model on one replica, on several, and in several processes.

    python examples/distributed.py                       # all that this machine has
    python examples/distributed.py --strategy mirrored   # the GPUs of one machine
    python examples/distributed.py --strategy workers    # two local processes
    python examples/distributed.py --strategy tpu

On a cluster every machine runs the same command, with its own TF_CONFIG, set by the
scheduler or by you; the backup is a folder that all of them can access. After a failure,
the same command resumes from the last completed epoch:

    export TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python examples/distributed.py --backup /shared/my-backup

The batch size is always that of all replicas together, so every strategy has the same
losses; without options the script prints them side by side, with the MRR of 256 queries
among all rows, and fails if the losses differ.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

STRATEGIES = {  # one process for each: TensorFlow's devices are set once per process
    "none": "one replica",
    "mirrored": "MirroredStrategy",
    "workers": "MultiWorkerMirroredStrategy",
    "tpu": "TPUStrategy",
}
NUM_PAIRS, DIM = 2048, 32
TOLERANCE = 1e-4  # relative, between the losses of two strategies


# Training: the code that you would write for your own model.


def make_strategy(name):
    """Returns a tf.distribute strategy; call it before any other use of TensorFlow."""
    import tensorflow as tf

    # Matrix products in full float32 on GPUs too, so that strategies can be compared.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if name == "workers":  # TF_CONFIG lists the workers, and which of them this one is
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    if name == "none":
        return tf.distribute.get_strategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make_pairs():
    """Returns two noisy views of each of `NUM_PAIRS` random vectors."""
    rng = np.random.default_rng(0)
    things = rng.normal(size=[NUM_PAIRS, 8])
    views = [things @ rng.normal(size=[8, DIM]) for _ in range(2)]
    return [
        (view + rng.normal(size=view.shape)).astype("float32") / DIM**0.5 for view in views
    ]


def make_model():
    """Returns a compiled model, built, so that a backup can be restored."""
    import keras

    import tfembloss

    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.layers.Dense(64, activation="tanh"), keras.layers.Dense(16)]
    )
    model = tfembloss.EmbeddingModel(encoder)
    model.build((None, DIM))
    model.compile(
        keras.optimizers.Adam(3e-3), loss=tfembloss.losses.MultipleNegativesRankingLoss()
    )
    return model


def make_batches(columns, batch_size, seed=0):
    """Returns batches of columns, shuffled in each epoch, and a callback to count epochs.

    The order depends on the seed and on the epoch's number only, so that a run that resumes
    in epoch 7 has the order of epoch 7; `shuffle=True` would not do this.
    """
    import keras
    import tensorflow as tf

    import tfembloss

    num_rows = len(columns[0])
    epoch = tf.Variable(0, dtype=tf.int32, trainable=False)

    def row(i):
        seeds = tf.stack([seed, epoch])
        i = tf.random.experimental.index_shuffle(i, seeds, max_index=num_rows - 1)
        return tuple(tf.gather(column, i) for column in columns)

    rows = tf.data.Dataset.range(num_rows).map(row, tf.data.AUTOTUNE)
    # drop_remainder: every batch is divided equally among the replicas.
    batches = tfembloss.data.columns(rows.batch(batch_size, drop_remainder=True))
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda i, logs: epoch.assign(i))
    return batches.prefetch(tf.data.AUTOTUNE), count


def make_backup(folder, strategy):
    """Returns Keras's backup after each epoch; all workers restore it, the first saves."""
    import keras

    first = strategy.extended.should_checkpoint
    return keras.callbacks.BackupAndRestore(
        folder,
        save_freq="epoch" if first else sys.maxsize,  # in batches: never
        delete_checkpoint=first,  # when the training is complete
        double_checkpoint=True,  # so a crash during writing costs at most an epoch
    )


def check_start(strategy, steps_per_epoch):
    """Returns a callback that stops a run if its backup is incomplete or not shared.

    Keras writes the weights and the epoch's number separately, and a worker that cannot
    access the folder would start from scratch.
    """
    import keras
    import tensorflow as tf

    checked = False

    def check(epoch, logs):
        nonlocal checked
        if checked:
            return
        checked = True
        step = callback.model.optimizer.iterations.numpy()
        here = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([[epoch, step]])
        )
        found = strategy.gather(here, axis=0).numpy()  # [replicas, 2]
        if (found != [epoch, epoch * steps_per_epoch]).any():
            raise RuntimeError(
                f"Expected all replicas in one epoch, each of {steps_per_epoch} steps. "
                f"Received epochs and steps {found.tolist()}: let all workers see one "
                "backup folder, or delete it."
            )

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=check)
    return callback


def train(strategy, epochs, batch_size, backup=None):
    """Trains the epochs that remain, and returns loss and MRR by epoch."""
    import tfembloss

    with strategy.scope():
        model = make_model()
    views = make_pairs()
    batches, count_epochs = make_batches(views, batch_size)
    evaluator = tfembloss.evaluation.RetrievalEvaluator(
        views[0][:256], views[1], range(256), ["mrr@10"]
    )
    callbacks = [count_epochs, evaluator]
    if backup:
        callbacks += [
            make_backup(backup, strategy),
            check_start(strategy, len(batches)),
        ]
    history = model.fit(
        batches, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0
    )
    columns = (history.history.get(name, []) for name in ("loss", "val_mrr@10"))
    return dict(zip(history.epoch, zip(*columns, strict=True), strict=True))


# Running it everywhere.


def run_here(arguments):
    """Trains in this process, and prints the losses or writes them to a file."""
    try:
        strategy = make_strategy(arguments.strategy)
    except Exception as error:
        if arguments.strategy != "tpu":
            raise
        # Without a TPU these calls fail in many ways, with very long messages.
        sys.exit(f"No TPU was found here ({type(error).__name__}).")
    found = train(strategy, arguments.epochs, arguments.batch_size, arguments.backup)
    replicas = strategy.num_replicas_in_sync
    if arguments.result:
        text = json.dumps({"replicas": replicas, "epochs": found})
        pathlib.Path(arguments.result).write_text(text)
    else:
        print(f"{STRATEGIES[arguments.strategy]}, {replicas} replicas")
        for epoch, (loss, mrr) in found.items():
            print(f"epoch {epoch + 1}: loss {loss:.6f}, MRR@10 {mrr:.3f}")


def run_in_processes(name, arguments, folder):
    """Trains in one process or two workers; returns the result, or None on failure."""
    command = [sys.executable, __file__, f"--strategy={name}"]
    command += [f"--epochs={arguments.epochs}", f"--batch-size={arguments.batch_size}"]
    command += [f"--backup={arguments.backup}"] if arguments.backup else []
    environments = [{}]
    if name == "workers":
        tasks = [{"type": "worker", "index": index} for index in range(2)]
        cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
        environments = [
            # Two processes cannot share the GPUs of one machine.
            {
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
                "CUDA_VISIBLE_DEVICES": "-1",
            }
            for task in tasks
        ]
    processes, logs = [], []
    for index, environment in enumerate(environments):
        result, log = folder / f"{name}-{index}.json", folder / f"{name}-{index}.log"
        logs.append(log)
        with log.open("w") as out:
            processes.append(
                subprocess.Popen(
                    [*command, f"--result={result}"],
                    env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **environment},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
    if all(wait(processes)):
        return json.loads((folder / f"{name}-0.json").read_text())
    for process, log in zip(processes, logs, strict=True):
        print(f"--- {log.stem} ended with {process.returncode}:")
        print("\n".join(log.read_text().splitlines()[-30:]))
    return None


def wait(processes, after_failure=30):
    """Returns whether each succeeded; if one fails, stops those that wait for it."""
    limit = None
    while True:
        try:
            for process in processes:
                process.wait(timeout=limit or 1)
            break
        except subprocess.TimeoutExpired:
            if limit:
                break
            if any(process.poll() for process in processes):
                limit = after_failure
    for process in processes:
        process.kill()
        process.wait()
    return [process.returncode == 0 for process in processes]


def free_ports(number):
    """Returns unused ports."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("localhost", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def compare(results):
    """Prints loss and MRR side by side; returns the losses' largest relative difference."""
    titles = [f"{STRATEGIES[name]} x {r['replicas']}" for name, r in results.items()]
    print("\n     " + "".join(f"{title:>33}" for title in titles))
    print("epoch" + f"{'loss':>24}{'MRR@10':>9}" * len(titles))
    first, *others = (result["epochs"] for result in results.values())
    for epoch in first:
        row = (found[epoch] for found in (first, *others))
        print(
            f"{int(epoch) + 1:5}" + "".join(f"{loss:24.6f}{mrr:9.3f}" for loss, mrr in row)
        )
    return max(
        (abs(found[e][0] / first[e][0] - 1) for found in others for e in first),
        default=0.0,
    )


def run_in_turn(arguments):
    """Runs this machine's strategies, or the one requested; returns the exit code."""
    names = [arguments.strategy] if arguments.strategy else list(STRATEGIES)
    if "tpu" in names and not (
        importlib.util.find_spec("libtpu") or "TPU_NAME" in os.environ
    ):
        print("TPUStrategy: left out, there is no TPU here (no libtpu, no TPU_NAME)")
        names.remove("tpu")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"{STRATEGIES[name]}: training", flush=True)
            results[name] = run_in_processes(name, arguments, pathlib.Path(folder))
            if results[name] is None:
                return 1
    difference = compare(results)
    if len(results) == 1:
        return 0
    agree = difference <= TOLERANCE  # False for NaN
    print(
        f"\nThe losses {'agree' if agree else 'DIFFER'}: largest relative difference "
        f"{difference:.1e}, allowed {TOLERANCE:.0e}"
    )
    return 0 if agree else 1


def main():
    """Trains as one worker of a cluster, under one strategy, or under all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategy", choices=STRATEGIES, help="one instead of all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256, help="of all replicas")
    parser.add_argument(
        "--backup", metavar="FOLDER", help="resume from here after a failure"
    )
    parser.add_argument("--result", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        arguments.strategy = "workers"
        run_here(arguments)
    elif arguments.strategy in ("none", "mirrored", "tpu"):
        run_here(arguments)
    else:
        if arguments.backup and not arguments.strategy:
            parser.error("--backup is one strategy's: give --strategy too")
        sys.exit(run_in_turn(arguments))


if __name__ == "__main__":
    main()
