"""What evaluators have in common: when they measure, and where the metrics go."""

import csv
import inspect
import os
import pathlib

import keras
import tensorflow as tf

from tfembloss.checks import integer, one_of, shown
from tfembloss.evaluation.inputs import is_arrays

UNITS = ["epoch", "step"]


class Evaluator(keras.callbacks.Callback):
    """Base of the evaluators: measures a model in `fit`, and adds the metrics to the logs.

    `val_{metric}`, or `val_{name}_{metric}`, is then in the logs for other callbacks, such
    as `EarlyStopping`: evaluators are called first, wherever they are in the list. Like
    Keras's `validation_freq`, an epoch without a measurement has none of them.

    A subclass defines `evaluate(model)`, which returns a dict of name to float.

    Args:
        name: what stands before each metric's name in the logs, so that several evaluators
            can be used; None for nothing.
        frequency: the number of epochs, or of steps, from one measurement to the next.
        unit: `"epoch"` or `"step"`. After steps, the logs of the epoch contain the last
            measurement.
        csv_file: path of a file to which each measurement is appended as a row: `epoch`,
            from 1, `step`, from 1 in this `fit`, and the metrics; None for no file.
        batch_size: rows that are embedded at a time, unless the input is a dataset.
        towers: for a `DualEncoder`, the names of the towers of the first input and of the
            others, a tuple; None for those named `"query"` and `"document"`, or the first
            and the second.

    If the model has prompts of these names, `"query"` is put before the first input's texts
    and `"document"` before the others', as in `fit`.
    """

    def __init__(
        self,
        name=None,
        frequency=1,
        unit="epoch",
        csv_file=None,
        batch_size=256,
        towers=None,
    ):
        super().__init__()
        if name is not None and not (isinstance(name, str) and name):
            raise ValueError(
                f"Expected name as a text, or None. Received: name={shown(name)}"
            )
        self.name = name
        self.frequency = integer("frequency", frequency, 1)
        self.unit = one_of("unit", unit, UNITS)
        self.csv_file = None if csv_file is None else pathlib.Path(os.fspath(csv_file))
        self.batch_size = integer("batch_size", batch_size, 1)
        if towers is not None:
            is_pair = isinstance(towers, list | tuple) and len(towers) == 2
            if not is_pair or not all(isinstance(name, str) for name in towers):
                raise ValueError(
                    "Expected towers as the names of two, a tuple, or None. Received: "
                    f"towers={shown(towers)}"
                )
        self.towers = towers
        self._epoch = self._step = self._before = 0
        self._updates = None  # of the optimizer before a step
        self._found = {}  # of the last measurement, until an epoch's logs have it

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        """Counts from the beginning, and moves evaluators before other callbacks."""
        _move_evaluators_first()
        self._epoch = self._step = self._before = 0
        self._updates = None
        self._found = {}

    def on_epoch_begin(self, epoch, logs=None):
        """Counts epochs."""
        self._epoch = epoch + 1
        self._before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        """Counts what the optimizer has done."""
        if self.unit == "step":
            self._updates = self._num_updates()

    def on_train_batch_end(self, batch, logs=None):
        """Measures after steps, if it does, and if the model was trained in them."""
        last, self._step = self._step, self._before + batch + 1
        if self.unit != "step" or self._step // self.frequency == last // self.frequency:
            return
        if self._updates is None or self._updates != self._num_updates():
            self._measure()  # unless the batch was skipped, to resume training

    def _writes(self):
        strategy = getattr(self.model, "distribute_strategy", None)
        return strategy is None or strategy.extended.should_checkpoint

    def _num_updates(self):
        optimizer = getattr(self.model, "optimizer", None)
        return None if optimizer is None else int(optimizer.iterations)

    def on_epoch_end(self, epoch, logs=None):
        """Measures after epochs, if it does, and adds the metrics to the logs."""
        if self.unit == "epoch" and self._epoch % self.frequency == 0:
            self._measure()
        logs = {} if logs is None else logs
        prefix = "val_" if self.name is None else f"val_{self.name}_"
        logs.update({f"{prefix}{name}": value for name, value in self._found.items()})
        self._found = {}

    def _measure(self):
        self._found = self.evaluate(self.model)
        # All workers measure, and may share a disk: one of them writes.
        if self.csv_file is None or not self._writes():
            return
        row = {"epoch": self._epoch, "step": self._step, **self._found}
        self.csv_file.parent.mkdir(parents=True, exist_ok=True)
        with self.csv_file.open("a+", newline="", encoding="utf-8") as file:
            file.seek(0)
            header = next(csv.reader(file), None)
            if header not in (None, list(row)):
                raise ValueError(
                    f"Expected a new csv_file, or one with the columns {list(row)}. "
                    f"Received: {self.csv_file}, with {header}."
                )
            writer = csv.DictWriter(file, list(row))
            if header is None:
                writer.writeheader()
            writer.writerow(row)

    def embeddings(self, model, x, name, role):
        """Returns embeddings `[N, D]` of inputs.

        Args:
            model: the model.
            x: inputs of its `predict`.
            name: what they are called in an error.
            role: `"query"` or `"document"`, whose prompt and tower are used, or None.
        """
        model = self._tower(model, role)
        sized = is_arrays(x)  # Keras refuses a batch_size with a dataset
        options = {"batch_size": self.batch_size} if sized else {}
        if role in getattr(model, "prompts", {}):
            options["prompt"] = role
        try:
            embeddings = model.predict(x, verbose=0, **options)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            if not isinstance(x, tf.data.Dataset):
                raise
            # Most often single rows, for which Keras only reports an unknown rank.
            raise ValueError(
                f"Expected {name} as a dataset of batches of the model's inputs. Received: "
                f"elements {x.element_spec}. Is a batch(...) missing?"
            ) from error
        shape = getattr(embeddings, "shape", ())
        if len(shape) != 2:
            raise ValueError(
                f"Expected the model to make embeddings [N, D] of the {name}. Received: "
                f"{f'shape {tuple(shape)}' if shape else shown(embeddings)}"
            )
        return embeddings

    def _tower(self, model, role):
        towers = getattr(model, "towers", None)
        if not isinstance(towers, dict):
            return model
        first, second = self.towers or (
            ("query", "document") if {"query", "document"} <= set(towers) else towers
        )
        for tower in (first, second):
            one_of("towers", tower, list(towers))
        return towers[second if role == "document" else first]


def _move_evaluators_first():
    """Keras calls callbacks in the order of its list, of which it does not tell them."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            # Another list: this one is being iterated over.
            caller.callbacks = sorted(
                caller.callbacks, key=lambda callback: not isinstance(callback, Evaluator)
            )
        frame = frame.f_back
