"""The variables of a training run: their descriptions, and values on all replicas."""

import itertools
import re

import numpy as np
import tensorflow as tf

from tfembloss import replicas


def variables_of(model, callbacks):
    """Returns all variables, with descriptions to compare with those of a checkpoint."""
    of_callbacks = [getattr(callback, "variables", ()) for callback in callbacks]
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
        "callbacks": list(itertools.chain(*of_callbacks)),
    }
    seen, found = set(), []
    for group, variables in groups.items():
        for variable in variables:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            # The rest of a path depends on how the model was built, and the numbers
            # in names on what else the process has created.
            owner = re.sub(r"_\d+", "", variable.path.split("/")[-2:][0])
            name = variable.name if group == "model" else owner
            description = {
                "group": group,
                "name": name,
                "path": variable.path,
                "shape": list(variable.shape),
                "dtype": str(variable.dtype),
            }
            found.append((description, variable))
    return found


def check_same(saved, here, backup_dir):
    """Raises a ValueError if a checkpoint's variables are not those of this run.

    Args:
        saved: descriptions of the variables of the checkpoint.
        here: descriptions of those of this run.
        backup_dir: the checkpoint's folder, for the error.
    """

    def key(variable):
        return variable and [variable[k] for k in ("group", "name", "shape", "dtype")]

    def text(variable):
        if variable is None:
            return "none"
        shape, group = tuple(variable["shape"]), variable["group"]
        return f"{variable['path']} {shape} {variable['dtype']} of the {group}"

    both = itertools.zip_longest(saved, here)
    others = [(a, b) for a, b in both if key(a) != key(b)]
    if others:
        expected, received = others[0]
        raise ValueError(
            "Expected the model, optimizer and metrics of the run that wrote the "
            f"checkpoint in {str(backup_dir)!r}, with {len(saved)} variables. "
            f"Received {len(here)}; the first that differs is {text(received)}, where "
            f"the checkpoint has {text(expected)}. To start from scratch, delete the "
            "checkpoint or choose another backup_dir; call a model that creates weights "
            "in its first step on a batch before fit."
        )


def value(variable, strategy):
    """Returns a variable's numpy value, `[replicas, ...]` if the replicas differ."""
    parts = strategy.experimental_local_results(variable.value)
    if replicas.has_several_workers(strategy) and variable.synchronization == "on_read":
        return np.asarray(variable.value.numpy())  # their sum
    values = [part.numpy() for part in parts]
    if all(values[0].tobytes() == other.tobytes() for other in values[1:]):
        return values[0]
    return np.stack(values)


def assign(variable, array, strategy):
    """Sets a variable to what `value` returned."""
    parts = strategy.experimental_local_results(variable.value)
    if array.dtype.kind == "V":  # how numpy reads bfloat16
        array = array.view(tf.as_dtype(variable.dtype).as_numpy_dtype)
    if replicas.has_several_workers(strategy) and variable.synchronization == "on_read":
        variable.value.assign(array)  # distributes it to the replicas
    elif len(parts) == 1:
        variable.assign(array)
    else:
        shares = array if array.ndim > len(variable.shape) else [array] * len(parts)
        for part, share in zip(parts, shares, strict=True):
            part.assign(share)
