"""A checkpoint from which interrupted training resumes at the next batch."""

import contextlib
import signal
import threading
import warnings

import keras
import numpy as np
import tensorflow as tf

from tfembloss import replicas
from tfembloss.callbacks import checkpoints, state
from tfembloss.callbacks.fingerprints import PRIME, fingerprint
from tfembloss.callbacks.running_fit import variables_of_fit
from tfembloss.checks import integer


class ResumableCheckpoint(keras.callbacks.Callback):
    """Resumes interrupted training at the next batch, as if it had not been interrupted.

    Saves the variables of the model (weights, states of the seed generators, the queue of a
    memory), of the optimizer and of the metrics, those that another callback has in a list
    `variables` (the negatives of `HardNegativeMining`), the epoch, and the number of
    batches done in it. The file is replaced atomically, so that there is a complete
    checkpoint even if the process is killed at any instant. The same script, started again,
    restores the checkpoint, and `fit` resumes exactly at the next batch. On Ctrl-C or
    SIGTERM during a step, the step is completed and a checkpoint is saved before training
    stops, whatever `save_freq`.

    The position in the data is found by reading them again: the batches of earlier epochs,
    unless these were always the same, and those done in the current epoch. So their order
    must be determined by seeds: call `keras.utils.set_random_seed` first, or pass a `seed`
    to `shuffle` and to the functions of `tfembloss.data`. The batches are compared with
    those before the interruption, with a warning if they differ. To call `fit` again in the
    same process, make the dataset again: one that reshuffles in each epoch does not return
    to its first order.

    Other callbacks are also called for skipped batches, with the restored metrics, so that
    batch numbers are right. `fit` returns the history of the epochs that it completes; the
    metrics of the resumed epoch include all of its batches.

    Other state of callbacks is not restored (the best value and the patience of
    `EarlyStopping` and `ReduceLROnPlateau`; the learning rate is), nor are random numbers
    that the model draws from `tf.random`. Put this callback last in the list, so that what
    others change after a batch or an epoch is saved.

    Args:
        backup_dir: local folder of this training only, created if it does not exist. With
            several workers, a folder that all of them can access; only the first writes.
        save_freq: `"epoch"`, to save at the end of each epoch, and before its validation;
            or the number of batches, counted over all epochs, after which to save.
        delete_checkpoint: whether to remove the checkpoint when training is complete. If
            False, the same script started again restores the trained model, and continues
            to train if `epochs` is larger.

    Raises:
        ValueError: at the start of `fit`, the folder cannot be written, contains other
            files, or is used by another process; or the checkpoint is damaged, or does not
            match the model, the optimizer, the number of batches in an epoch,
            `steps_per_execution` or the number of replicas.

    Example:

    >>> import tempfile
    >>> x = np.arange(32.0).reshape(16, 2)
    >>> folder = tempfile.mkdtemp() + "/backup"
    >>> def train(*more):
    ...     keras.utils.set_random_seed(0)
    ...     model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    ...     model.compile("adam", loss="mse")
    ...     checkpoint = ResumableCheckpoint(folder, save_freq=1)
    ...     callbacks = [checkpoint, *more]
    ...     model.fit(x, x[:, :1], batch_size=4, callbacks=callbacks, verbose=0)
    ...     return int(model.optimizer.iterations)
    >>> class Stop(keras.callbacks.Callback):
    ...     def on_train_batch_end(self, batch, logs=None):
    ...         if batch == 2:
    ...             raise InterruptedError
    >>> try:
    ...     train(Stop())
    ... except InterruptedError:
    ...     print("stopped after 3 of 4 batches")
    stopped after 3 of 4 batches
    >>> train()  # one more
    4

    Relations:
        keras.callbacks.BackupAndRestore resumes at the beginning of an epoch, with weights
        that have already seen a part of it if its `save_freq` is a number, and without the
        states of the seed generators.
    """

    def __init__(self, backup_dir, save_freq="epoch", delete_checkpoint=True):
        super().__init__()
        self.backup_dir = checkpoints.local_folder(backup_dir)
        self.save_freq = save_freq
        if not (isinstance(save_freq, str) and save_freq == "epoch"):
            self.save_freq = integer("save_freq", save_freq, 1, hint=" or 'epoch'")
        self.delete_checkpoint = delete_checkpoint
        self._fitting = False
        self._signals = []  # received during a step

    # Methods in the order in which `fit` calls them.

    def set_model(self, model):
        """Sets the model, at the start of `fit`, or of `evaluate` outside of it."""
        super().set_model(model)
        self._fitting = False

    def on_train_begin(self, logs=None):
        """Restores the checkpoint, if there is one."""
        model, strategy = self.model, self.model.distribute_strategy
        self._strategy = strategy
        self._several_workers = replicas.has_several_workers(strategy)
        self._writes = strategy.extended.should_checkpoint
        _check_no_shards(model, self._several_workers)
        of_fit = variables_of_fit(self)
        self._callbacks = of_fit["callbacks"].callbacks
        _check_alone(self, self._callbacks)
        if self._writes:
            self._lock = checkpoints.open_folder(self.backup_dir)
        saved = checkpoints.read(self.backup_dir)
        self._check_workers_agree(saved)

        with strategy.scope():  # one for each replica, summed when read
            self._trace = tf.Variable(
                np.int64(0),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._trace_batch = tf.function(
            self._add_to_trace, autograph=False, reduce_retracing=True
        )
        self._place = {
            "steps": self.params.get("steps"),
            "steps_per_execution": model.steps_per_execution,
            "replicas": strategy.num_replicas_in_sync,
            "first_epoch": None,
            "epoch": None,
            "calls": 0,  # of the train function, in this epoch
            "traces": [],  # of earlier epochs
        }
        self._resumed, self._calls_to_skip, self._num_unsaved = None, 0, 0
        self._initial_epoch = model._initial_epoch
        if saved is not None:
            self._restore(*saved, of_fit["epoch_iterator"])
        self._untraced = model.train_function
        self._train = self._traced_train_function()
        model.train_function = self._train
        self._fitting = True

    def on_epoch_begin(self, epoch, logs=None):
        """Restores the metrics of an interrupted epoch; Keras has just reset them."""
        self.model._initial_epoch = self._initial_epoch
        place = self._place
        if place["first_epoch"] is None:
            place["first_epoch"] = epoch
        place["epoch"], place["calls"] = epoch, 0
        self._trace.assign(0)
        if self._resumed is None:
            return
        saved, metrics = self._resumed
        self._resumed = None
        if saved["epoch"] != epoch:
            raise ValueError(
                f"The checkpoint in {str(self.backup_dir)!r} is of epoch {saved['epoch']}, "
                f"counted from 0. Expected initial_epoch={saved['first_epoch']} as in the "
                f"run that wrote it. Received: fit begins at epoch {epoch}."
            )
        self._calls_to_skip = saved["calls"]
        self._expected_trace = saved["trace"]
        if self._calls_to_skip:
            for variable, array in metrics:
                state.assign(variable, array, self._strategy)
            self._logs = self.model.get_metrics_result()

    def on_train_batch_begin(self, batch, logs=None):
        """Replaces the train function for one call."""
        self.model.train_function = self._step

    def on_train_batch_end(self, batch, logs=None):
        """Saves if `save_freq` is reached, or if training must stop."""
        if self._signals:
            number = self._signals.pop()
            self._save()
            signal.raise_signal(number)
        elif self.save_freq != "epoch" and self._num_unsaved >= self.save_freq:
            self._save()

    def on_test_begin(self, logs=None):
        """Saves before an epoch's validation, which may take a long time."""
        if self._fitting and self.save_freq == "epoch" and self._num_unsaved:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        """Saves if `save_freq="epoch"`."""
        self._place["traces"].append(int(self._trace.numpy()))
        self._place["epoch"], self._place["calls"] = epoch + 1, 0
        self._trace.assign(0)
        if self.save_freq == "epoch":
            self._save()

    def on_train_end(self, logs=None):
        """Removes the checkpoint, or saves the last one."""
        self._fitting = False
        self.model._initial_epoch = self._initial_epoch
        self.model.train_function = self._untraced
        if not self.delete_checkpoint and self._num_unsaved:
            self._save()
        if self._writes:
            self._lock = None
            if self.delete_checkpoint:
                checkpoints.remove(self.backup_dir)

    # Steps that are skipped or executed.

    def _step(self, iterator):
        """Skips or executes one call of the train function, `steps_per_execution` steps."""
        self.model.train_function = self._train
        self._signals.clear()
        if self._calls_to_skip:
            self._skip(iterator)
            self._calls_to_skip -= 1
            if not self._calls_to_skip:
                self._check_trace()
            logs = self._logs
        else:
            with contextlib.nullcontext() if self._several_workers else self._deferred():
                logs = self._train(iterator)
            self._num_unsaved += self.model.steps_per_execution
        self._place["calls"] += 1
        return logs

    def _traced_train_function(self):
        """Returns the model's train function, which also updates the trace of batches."""
        model = self.model
        step = model.train_step

        def train_step(batch):
            self._add_to_trace(batch)
            return step(batch)

        model.train_step = train_step
        try:
            model.make_train_function(force=True)
        finally:
            del model.train_step
        return model.train_function

    def _add_to_trace(self, batch):
        self._trace.assign(self._trace * PRIME + fingerprint(batch))

    def _read_batches(self, iterator):
        """Reads as many batches as one call of the train function does."""
        for i in range(self.model.steps_per_execution):
            try:
                batch = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                if i == 0:
                    raise StopIteration from None
                return
            self._strategy.run(self._trace_batch, args=(batch,))

    def _skip(self, iterator):
        try:
            self._read_batches(iterator)
        except StopIteration:
            done = self._place["calls"] * self.model.steps_per_execution
            raise ValueError(
                f"Expected the data of the run that wrote {str(self.backup_dir)!r}, which "
                f"was stopped in epoch {self._place['epoch']}, counted from 0, after more "
                f"than {done} batches. Received: data that end after {done}."
            ) from None

    def _check_trace(self):
        if int(self._trace.numpy()) != self._expected_trace:
            warnings.warn(
                f"Training resumes in epoch {self._place['epoch']}, counted from 0, and "
                "the batches that it skips are not those done before it was stopped: rows "
                "of this epoch may be used twice or left out. For the results of an "
                "uninterrupted run, make the order of the data depend on seeds: call "
                "keras.utils.set_random_seed first, or pass a seed to shuffle; in the same "
                "process, make the dataset again.",
                stacklevel=2,
            )

    def _replay(self, epoch_iterator, num_epochs):
        """Reads the data of whole epochs, as `fit` did."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ran out of data")  # of Keras
            for _ in range(num_epochs):
                with epoch_iterator.catch_stop_iteration():
                    for _, _, iterator in epoch_iterator:
                        self._read_batches(iterator)

    @contextlib.contextmanager
    def _deferred(self):
        """Defers the signals to stop, which otherwise would end the step halfway."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can set handlers
            return
        handlers = {}

        def note(number, frame):
            if self._signals:  # a second one stops at once
                raise KeyboardInterrupt
            self._signals.append(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) or handler == signal.SIG_DFL:
                handlers[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    # State.

    def _save(self):
        variables = state.variables_of(self.model, self._callbacks)
        place = {
            **self._place,
            "trace": int(self._trace.numpy()),
            "variables": [description for description, _ in variables],
        }
        arrays = [state.value(variable, self._strategy) for _, variable in variables]
        if self._writes:
            checkpoints.write(self.backup_dir, place, arrays)
        self._num_unsaved = 0

    def _restore(self, saved, arrays, epoch_iterator):
        for name, what in (
            ("steps", "batches in an epoch"),
            ("steps_per_execution", "batches in a call of the train function"),
            ("replicas", "replicas"),
        ):
            if saved[name] != self._place[name]:
                raise ValueError(
                    f"Expected {saved[name]} {what} as in the run that wrote the "
                    f"checkpoint in {str(self.backup_dir)!r}. Received: "
                    f"{self._place[name]}. Use the same data, batch size and strategy; to "
                    "start from scratch, delete the checkpoint or choose another "
                    "backup_dir."
                )
        variables = state.variables_of(self.model, self._callbacks)
        if len(variables) < len(saved["variables"]):
            self._build(epoch_iterator)
            variables = state.variables_of(self.model, self._callbacks)
        here = [description for description, _ in variables]
        state.check_same(saved["variables"], here, self.backup_dir)
        pairs = [(v, array) for (_, v), array in zip(variables, arrays, strict=True)]
        for variable, array in pairs:
            state.assign(variable, array, self._strategy)
        names = ("first_epoch", "epoch", "traces")
        self._place.update({name: saved[name] for name in names})
        metrics = {id(variable) for variable in self.model.metrics_variables}
        self._resumed = saved, [pair for pair in pairs if id(pair[0]) in metrics]
        self.model._initial_epoch = saved["epoch"]
        always_the_same = len(saved["traces"]) > 1 and len(set(saved["traces"])) == 1
        if not always_the_same:
            self._replay(epoch_iterator, saved["epoch"] - saved["first_epoch"])

    def _build(self, epoch_iterator):
        """Creates the variables that `fit` would create in its first step."""
        try:
            batch = replicas.first_local_spec(epoch_iterator._distributed_dataset)
            with self._strategy.scope():
                self.model._symbolic_build(data_batch=batch)
        except Exception as error:
            raise ValueError(
                "Expected a model with weights, to restore the checkpoint in "
                f"{str(self.backup_dir)!r}. Received: {self.model!r}, which cannot be "
                f"built from the shapes of its data ({error}). Call it on a batch before "
                "fit."
            ) from error

    def _check_workers_agree(self, saved):
        if not self._several_workers:
            return
        here = [saved[0]["epoch"], saved[0]["calls"]] if saved else [-1, -1]
        values = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([here])
        )
        found = self._strategy.gather(values, axis=0).numpy()  # [replicas, 2]
        if (found != here).any():
            raise ValueError(
                "Expected one backup_dir that all workers see. Received checkpoints of "
                f"epochs and steps {found.tolist()} (-1: none), with backup_dir="
                f"{str(self.backup_dir)!r}."
            )


def _check_no_shards(model, several_workers):
    """Checks that one worker has all that it writes."""
    shards = [x for x in model._flatten_layers() if getattr(x, "shard", False)]
    if several_workers and shards:
        raise ValueError(
            "With several workers, one writes the checkpoint: expected no layer of which "
            f"each has a part. Received: {shards[0].name!r} with shard=True. Save the "
            "model itself after an epoch, model.save on all workers."
        )


def _check_alone(callback, callbacks):
    """Checks that no other callback of this `fit` restores the model."""
    kinds = (ResumableCheckpoint, keras.callbacks.BackupAndRestore)
    for other in callbacks:
        if other is not callback and isinstance(other, kinds):
            raise ValueError(
                "Expected one callback that resumes the training. Received: a "
                f"ResumableCheckpoint and a {type(other).__name__}"
            )
