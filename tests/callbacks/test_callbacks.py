"""A ResumableCheckpoint resumes a stopped training at the next batch, with its numbers."""

import fcntl
import functools
import json
import os
import pathlib
import re
import shutil
import signal

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import layers, losses
from tfembloss.callbacks import ResumableCheckpoint

KILLS = pathlib.Path(__file__).parents[1] / "distributed" / "kills.py"
X = np.random.default_rng(0).normal(size=[2, 22, 4]).astype("float32")
Y = np.arange(22) % 3
STEPS = 6  # of 4 rows in an epoch, the last of 2


class StoppedError(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """Stops after a step, counted over all epochs."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_begin(self, batch, logs=None):
        self.begun = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch, logs=None):
        if self.begun < self.after <= int(self.model.optimizer.iterations):
            raise StoppedError


def encoder():
    return keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(5, "tanh"), keras.layers.Dropout(0.5)]
    )


def pairs(**options):
    model = tfembloss.EmbeddingModel(encoder(), **options)
    return model, losses.MultipleNegativesRankingLoss(), (tuple(X), None)


class ClassifierOfTwoOptimizers(tfembloss.EmbeddingClassifier):
    def compile(self, *arguments, **options):
        super().compile(*arguments, head_optimizer="adagrad", **options)


def classifier():
    model = ClassifierOfTwoOptimizers(encoder(), layers.CosineHead(9), num_sampled=6)
    return model, losses.ArcFaceLoss(), (X[0], Y)


def stock():
    return encoder(), losses.SupConLoss(), (X[0], Y)


MODELS = {
    "pairs": pairs,
    "a memory": lambda: pairs(memory=layers.CrossBatchMemory(9)),
    "mini-batches": functools.partial(pairs, mini_batch_size=3),
    "classifier": classifier,
    "stock": stock,
}


def train(make, *callbacks, epochs=3, data=None, steps_per_execution=1, **options):
    """The history, and all numbers that a training leaves."""
    keras.utils.set_random_seed(1)
    model, loss, (x, y) = make()
    model.compile(
        keras.optimizers.Adam(0.01), loss, run_eagerly=steps_per_execution == 1,
        steps_per_execution=steps_per_execution,
    )  # fmt: skip
    if data is None:
        options = {"x": x, "y": y, "batch_size": 4, **options}
    else:
        options = {"x": data(), **options}
    history = model.fit(epochs=epochs, callbacks=list(callbacks), verbose=0, **options)
    variables = [*model.variables, *model.optimizer.variables]
    return history.history, [variable.numpy() for variable in variables]


def assert_equal(run, expected):
    history, numbers = run
    assert len(numbers) == len(expected[1])
    for ours, others in zip(numbers, expected[1], strict=True):
        np.testing.assert_allclose(ours, others, rtol=1e-6, atol=1e-7)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[0][name][-len(values) :], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "after"),
    [("pairs", 1), ("pairs", STEPS), *((name, STEPS + 3) for name in MODELS)],
)
def test_the_next_batch_is_the_one_after_the_last(name, after, tmp_path):
    make = MODELS[name]
    checkpoint = functools.partial(ResumableCheckpoint, tmp_path / "backup", 1)
    with pytest.raises(StoppedError):
        train(make, checkpoint(), Stop(after))
    assert_equal(train(make, checkpoint()), whole(name))
    assert not (tmp_path / "backup").exists()


@functools.cache
def whole(name):
    return train(MODELS[name])


def shuffled_dataset():
    dataset = tf.data.Dataset.from_tensor_slices((tuple(X),))
    return dataset.shuffle(22, seed=3).batch(4)


def batches_of_classes():
    return tfembloss.data.balanced_batches(X[0], Y, classes_per_batch=2, seed=1)


@pytest.mark.parametrize(
    "options",
    [
        {"data": shuffled_dataset},
        {"data": shuffled_dataset, "steps_per_execution": 2},
        {"validation_split": 0.4, "shuffle": False},
    ],
)
def test_data_in_any_form_are_found_again(options, tmp_path):
    run = functools.partial(train, pairs, **options)
    with pytest.raises(StoppedError):
        run(ResumableCheckpoint(tmp_path / "backup", 1), Stop(8))
    assert_equal(run(ResumableCheckpoint(tmp_path / "backup", 1)), run())


def test_batches_drawn_anew_in_each_epoch(tmp_path):
    def make():
        return tfembloss.EmbeddingModel(encoder()), losses.SupConLoss(), (None, None)

    run = functools.partial(train, make, data=batches_of_classes)
    with pytest.raises(StoppedError):
        run(ResumableCheckpoint(tmp_path / "backup", 1), Stop(5))
    assert_equal(run(ResumableCheckpoint(tmp_path / "backup", 1)), run())


@pytest.mark.parametrize("save_freq", [4, "epoch"])
def test_what_was_not_saved_is_done_again(save_freq, tmp_path):
    checkpoint = functools.partial(ResumableCheckpoint, tmp_path / "backup", save_freq)
    with pytest.raises(StoppedError):
        train(pairs, checkpoint(), Stop(STEPS + 3))
    assert_equal(train(pairs, checkpoint()), whole("pairs"))


class Signal(keras.callbacks.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, number, step):
        super().__init__()
        self.number, self.step = number, step

    def set_model(self, model):
        super().set_model(model)
        model.optimizer.build(model.trainable_variables)
        apply = model.optimizer.apply

        def interrupted(*arguments, **options):
            if int(model.optimizer.iterations) + 1 == self.step:
                os.kill(os.getpid(), self.number)
            return apply(*arguments, **options)

        model.optimizer.apply = interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_saves(number, tmp_path):
    def handler(*_):
        raise StoppedError

    before = signal.signal(number, handler)
    try:
        with pytest.raises(StoppedError):
            train(pairs, ResumableCheckpoint(tmp_path / "backup"), Signal(number, 8))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    with np.load(tmp_path / "backup" / "checkpoint.npz") as archive:
        place = json.loads(archive["place"].item())
    assert (place["epoch"], place["calls"]) == (1, 2)
    resumed = train(pairs, ResumableCheckpoint(tmp_path / "backup"))
    assert_equal(resumed, whole("pairs"))


def test_without_a_checkpoint_the_numbers_are_others(tmp_path):
    """That the tests above can fail: weights alone are not enough."""
    with pytest.raises(StoppedError):
        train(pairs, ResumableCheckpoint(tmp_path / "backup", 1), Stop(8))
    path = tmp_path / "backup" / "checkpoint.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    names = [v["name"] for v in json.loads(arrays["place"].item())["variables"]]
    states = [i for i, name in enumerate(names) if "seed_generator" in name]
    assert states
    for i in states:
        arrays[str(i)] = np.zeros_like(arrays[str(i)])
    np.savez(path, **arrays)
    _, numbers = train(pairs, ResumableCheckpoint(tmp_path / "backup", 1))
    assert np.abs(numbers[0] - whole("pairs")[1][0]).max() > 1e-4


def test_other_data_are_noticed(tmp_path):
    def run(scale, *callbacks):
        data = tf.data.Dataset.from_tensor_slices((tuple(scale * X),)).batch(4)
        return train(pairs, *callbacks, data=lambda: data)

    with pytest.raises(StoppedError):
        run(1, ResumableCheckpoint(tmp_path / "backup", 1), Stop(8))
    with pytest.warns(UserWarning, match="not those done before it was stopped"):
        run(2, ResumableCheckpoint(tmp_path / "backup", 1))


def test_a_complete_checkpoint_trains_on(tmp_path):
    checkpoint = functools.partial(
        ResumableCheckpoint, tmp_path / "backup", delete_checkpoint=False
    )
    train(pairs, checkpoint(), epochs=2)
    assert_equal(train(pairs, checkpoint()), whole("pairs"))
    again = train(pairs, checkpoint())  # nothing is left to do
    np.testing.assert_array_equal(again[1][0], whole("pairs")[1][0])


# Mistakes.


@pytest.mark.parametrize("save_freq", [0, -1, 2.5, True, None, "batch"])
def test_save_freq(save_freq):
    with pytest.raises(ValueError, match=r"`save_freq` must be an integer >= 1 or 'epoch'"):
        ResumableCheckpoint("backup", save_freq)


@pytest.mark.parametrize("folder", [None, 3, "", "gs://bucket/backup", "a\0b"])
def test_what_is_no_local_folder(folder):
    with pytest.raises(ValueError, match="path of a local folder"):
        ResumableCheckpoint(folder)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "backup"
    with pytest.raises(StoppedError):
        train(pairs, ResumableCheckpoint(folder, 1), Stop(8))
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The folder of a training that was stopped, a copy for each test."""
    return pathlib.Path(shutil.copytree(stopped_once, tmp_path / "backup"))


def larger():
    model, loss, data = pairs()
    model.encoder.add(keras.layers.Dense(2))
    return model, loss, data


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (larger, {}, r"checkpoint in.*variables.*differs.*dense"),
        (pairs, {"batch_size": 2}, "Expected 6 batches in an epoch.*Received: 11"),
        (pairs, {"steps_per_execution": 2}, "Expected 1 batches in a call"),
    ],
)
def test_another_training_is_refused(stopped, make, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train(make, ResumableCheckpoint(stopped, 1), **options)
    assert (stopped / "checkpoint.npz").exists()


def rewritten(path, change):
    with np.load(path) as archive:
        arrays = dict(archive)
    place = json.loads(arrays["place"].item())
    change(place)
    np.savez(path, **{**arrays, "place": np.array(json.dumps(place))})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(1000)),
        lambda path: np.savez(path, x=np.zeros(3)),
        lambda path: rewritten(path, lambda place: place.pop("epoch")),
        lambda path: rewritten(path, lambda place: place.update(epoch="two")),
        lambda path: rewritten(path, lambda place: place.update(calls=-1)),
        lambda path: rewritten(path, lambda place: place.update(format=9)),
        lambda path: rewritten(path, lambda place: place["variables"].append({})),
        lambda path: rewritten(path, lambda place: place["variables"].append(None)),
        lambda path: rewritten(path, lambda place: place.update(traces=None)),
    ],
)
def test_a_damaged_checkpoint_is_named(stopped, damage):
    damage(stopped / "checkpoint.npz")
    message = f"written by ResumableCheckpoint.*{re.escape(str(stopped))}.*Delete it"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train(pairs, ResumableCheckpoint(stopped, 1))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"folder of this callback only.*thesis\.tex"):
        train(pairs, ResumableCheckpoint(tmp_path))
    assert (tmp_path / "thesis.tex").exists()


def test_two_that_resume_are_refused(tmp_path):
    one = ResumableCheckpoint(tmp_path / "one")
    for other in (
        ResumableCheckpoint(tmp_path / "two"),
        keras.callbacks.BackupAndRestore(tmp_path / "two"),
    ):
        with pytest.raises(ValueError, match="one callback that resumes"):
            train(pairs, one, other)


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process would
    try:
        with pytest.raises(ValueError, match="another process uses"):
            train(pairs, ResumableCheckpoint(tmp_path))
    finally:
        os.close(descriptor)


# Killed, in processes of their own.


@pytest.mark.parametrize(("num_kills", "num_replicas"), [(4, 1), (1, 2)])
def test_killed_at_random_it_comes_to_the_same_numbers(num_kills, num_replicas, tmp_path):
    log = tmp_path / "log"
    run = processes.start(KILLS, [tmp_path, num_kills, num_replicas], log)
    run.join(timeout=600)
    assert run.exitcode == 0, log.read_text()
    assert log.read_text().count("killed by 9") == num_kills, log.read_text()
    with (
        np.load(tmp_path / "whole.npz") as whole,
        np.load(tmp_path / "killed.npz") as killed,
    ):
        assert whole.files == killed.files
        for name in whole.files:
            np.testing.assert_allclose(killed[name], whole[name], rtol=1e-6, atol=1e-7)
