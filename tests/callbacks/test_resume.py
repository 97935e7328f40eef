"""Training that is killed goes on to the same numbers; the example of several machines."""

import json
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import distributed as example  # examples/distributed.py, not the folder of scripts here
import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "distributed" / "resume.py"
LIMIT = 600  # seconds, for each process


class Job:
    """Processes of resume.py: one, or two workers."""

    def __init__(self, folder, name, num_workers, *options):
        self.outs = [folder / f"{name}-{i}.npz" for i in range(num_workers)]
        cluster = {"worker": [f"localhost:{p}" for p in example.free_ports(num_workers)]}
        self.processes = []
        for i, out in enumerate(self.outs):
            task = {"cluster": cluster, "task": {"type": "worker", "index": i}}
            config = {"TF_CONFIG": json.dumps(task)} if num_workers > 1 else {}
            arguments = (out, folder / "backup", *options)
            log = out.with_suffix(".log")
            self.processes.append(processes.start(SCRIPT, arguments, log, **config))

    def logs(self):
        return "\n".join(out.with_suffix(".log").read_text()[-4000:] for out in self.outs)

    def numbers(self):
        return [dict(np.load(out)) for out in self.outs]

    def wait_for_stop(self):
        """Until the last process says that it is in the middle of an epoch."""
        end = time.monotonic() + LIMIT
        while not self.outs[-1].with_name(self.outs[-1].name + ".stopped").exists():
            running = all(process.is_alive() for process in self.processes)
            assert running and time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def finish(self):
        for process in self.processes:
            process.join(timeout=LIMIT)
        assert all(process.exitcode == 0 for process in self.processes), self.logs()
        return self.numbers()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.join()


def kill_and_restart(folder, num_workers):
    """What each process had after a run that was not killed, and after one that was."""
    folder.mkdir()
    with Job(folder, "first", num_workers, "--stop") as job:
        job.wait_for_stop()
        *survivors, last = job.processes
        last.kill()  # SIGKILL
        for survivor in survivors:  # its step fails when TensorFlow misses the other
            survivor.join(timeout=LIMIT)
            assert survivor.exitcode not in (0, None)
        last.join()
        assert last.exitcode == -9
        whole = job.numbers()
    backup = json.loads((folder / "backup" / "training_metadata.json").read_text())
    assert backup["epoch"] == 2  # were trained whole; the kill was in the third
    options = ["--controls"] if num_workers == 1 else []
    with Job(folder, "second", num_workers, *options) as job:
        resumed = job.finish()
    assert not (folder / "backup").exists()  # the training is complete
    return whole, resumed


def run_example(*options):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "distributed.py", *options],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """All that needs processes of its own, side by side."""
    folder = tmp_path_factory.mktemp("resume")
    with ThreadPoolExecutor() as pool:
        yield {
            1: pool.submit(kill_and_restart, folder / "one", 1),
            2: pool.submit(kill_and_restart, folder / "two", 2),
            "example": pool.submit(run_example, "--epochs", "2"),
        }


def difference(run, results, expected):
    """The largest difference of any number but the list of epochs."""
    names = [name for name in expected if name != "epochs"]
    return max(np.abs(results[f"{run}/{name}"] - expected[name]).max() for name in names)


# Runs in this process, while the others are on their way.


STEPS = example.NUM_PAIRS // 512


class Interrupt(keras.callbacks.Callback):
    """Raises after a step, counted over all epochs."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == self.step:
            raise InterruptedError


def train_here(*callbacks, epochs=3):
    """The model and the epochs that were trained."""
    model = example.make_model()
    batches, count_epochs = example.make_batches(example.make_pairs(), 512)
    history = model.fit(
        batches,
        epochs=epochs,
        callbacks=[count_epochs, *callbacks],
        shuffle=False,
        verbose=0,
    )
    return model, history.epoch


def test_an_epochs_order_follows_from_its_number(jobs):
    def epoch(number):
        batches, count_epochs = example.make_batches([rows, -rows], 8)
        count_epochs.on_epoch_begin(number, {})
        return np.array([x for (x,) in batches.as_numpy_iterator()])

    rows = np.arange(32)
    orders = [epoch(number) for number in (0, 1, 1)]
    for order in orders:
        np.testing.assert_array_equal(order[:, 1], -order[:, 0])
        np.testing.assert_array_equal(np.sort(order[:, 0].ravel()), rows)
    np.testing.assert_array_equal(orders[1], orders[2])
    assert (orders[0] != orders[1]).mean() > 0.5


def test_a_backup_that_was_cut_short_costs_one_epoch(jobs, tmp_path):
    whole, _ = train_here()
    strategy = tf.distribute.get_strategy()
    with pytest.raises(InterruptedError):
        train_here(example.make_backup(tmp_path, strategy), Interrupt(2 * STEPS + 1))
    weights = tmp_path / "latest.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1000])  # as a kill in mid-writing leaves it
    backup = example.make_backup(tmp_path, strategy)
    resumed, epochs = train_here(backup, example.check_start(strategy, STEPS))
    assert epochs == [1, 2]
    for ours, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_keras_repeats_an_epoch_after_a_backup_in_its_middle(jobs, tmp_path):
    """Why the example backs up whole epochs, and checks where a run starts."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path, save_freq=1)

    with pytest.raises(InterruptedError):
        train_here(backup(), Interrupt(STEPS + 2), epochs=2)
    check = example.check_start(tf.distribute.get_strategy(), STEPS)
    with pytest.raises(RuntimeError, match=r"Received epochs and steps \[\[1, 6\]\]"):
        train_here(backup(), check, epochs=2)
    model, epochs = train_here(backup(), epochs=2)
    assert epochs == [1] and model.optimizer.iterations.numpy() == 2 * STEPS + 2


# Runs in processes of their own.


@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_in_mid_epoch_it_goes_on_to_the_same_numbers(jobs, num_workers):
    whole, resumed = jobs[num_workers].result()
    for results, expected in zip(resumed, whole, strict=True):
        assert any("seed_generator" in name for name in expected)
        assert any("velocity" in name for name in expected)
        assert list(expected["epochs"]) == [0, 1, 2, 3]
        assert list(results["resumed/epochs"]) == [2, 3]
        assert difference("resumed", results, expected) < 1e-6


@pytest.mark.parametrize("run", ["same order each time", "without seed states"])
def test_without_the_order_or_the_seed_states_it_does_not(jobs, run):
    (expected,), (results,) = jobs[1].result()
    assert list(results[f"{run}/epochs"]) == [2, 3]
    kernel = "model 0 kernel"
    assert np.abs(results[f"{run}/{kernel}"] - expected[kernel]).max() > 1e-3


def test_the_example_trains_alike_under_every_strategy(jobs):
    done = jobs["example"].result()
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("one replica x 1", "Strategy x 2", "MultiWorkerMirroredStrategy x 2"):
        assert title in done.stdout
    assert "The losses agree" in done.stdout
