"""The peers' figures in tests/golden, and the comparison with them."""

import json
import pathlib

import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parent / "golden"
ROWS = ["c0_b12d8_3x4cls", "c1_b24d16_shuffled", "c2_b32d32_imbalanced_singletons"]
# In float32 a distance is exact to a few units in the 7th place, and the losses sum
# exponentials of 50 or 80 times a distance.
FLOAT64, FLOAT32 = ("float64", 1e-9), ("float32", 1e-4)
# Two cases in float64, one in float32: every shape and dtype is compiled anew.
ROW_RUNS = [(row, *FLOAT64) for row in ROWS[1:]] + [(ROWS[-1], *FLOAT32)]
CASE_RUNS = [(case, *FLOAT64) for case in ("case1", "case2")] + [("case2", *FLOAT32)]

_files = {}


def arrays(library, name, case):
    """The arrays of one case, by their names; `config` as a dict.

    What all names of a case have in common stands under the name "rows".
    """
    if library not in _files:
        _files[library] = np.load(FOLDER / f"{library}.npz")
    file, found = _files[library], {}
    for prefix in (f"rows/{case}/", f"{name}/{case}/"):
        found |= {k[len(prefix) :]: file[k] for k in file.files if k.startswith(prefix)}
    found["config"] = json.loads(str(found["config"]))
    return found


def assert_equal(loss, y_true, y_pred, value, gradient, rtol):
    """The loss and its gradient, in norm, up to `rtol`."""
    y_pred = tf.constant(y_pred, loss.dtype)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        result = loss(y_true, y_pred)
    np.testing.assert_allclose(result, value, rtol=rtol, atol=1e-12)
    error = np.linalg.norm(tape.gradient(result, y_pred) - gradient)
    assert error <= rtol * np.linalg.norm(gradient) + 1e-12
