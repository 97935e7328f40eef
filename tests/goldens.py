"""The peers' figures in tests/golden, and the comparison with them."""

import contextlib
import json
import pathlib

import numpy as np
import pytest
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


@contextlib.contextmanager
def kernels(compiled):
    """Kernels compiled by XLA or run as plain TensorFlow."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(not compiled)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@pytest.fixture(autouse=True)
def plain_kernels():
    """For modules of many formulas and options: XLA takes a second or two for each.

    test_contract has them compiled, as have the tests that say so.
    """
    with kernels(compiled=False):
        yield


def value_and_gradient(loss, y_true, y_pred, **options):
    """The loss of embeddings of its dtype, and its gradient in them, as arrays."""
    y_pred = tf.cast(tf.convert_to_tensor(y_pred), loss.dtype)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred, **options)
    return value.numpy(), tape.gradient(value, y_pred).numpy()


def runs(names):
    """(name, case, dtype, rtol, compiled) of sentence-transformers' losses.

    Names that are another one with other options have case 2 only, and are not compiled.
    """
    file, found = _file("sentence_transformers"), []
    for name in names:
        has_both = f"{name}/case1/loss" in file
        for case, dtype, rtol in CASE_RUNS if has_both else CASE_RUNS[1:]:
            found.append((name, case, dtype, rtol, has_both and dtype == "float32"))
    return found


def _file(library):
    if library not in _files:
        _files[library] = np.load(FOLDER / f"{library}.npz")
    return _files[library]


def arrays(library, name, case):
    """The arrays of one case, by their names; `config` as a dict.

    What names of a case have in common stands under the name "rows".
    """
    file, found = _file(library), {}
    for prefix in (f"rows/{case}/", f"{name}/{case}/"):
        found |= {k[len(prefix) :]: file[k] for k in file.files if k.startswith(prefix)}
    found["config"] = json.loads(str(found["config"]))
    return found


def columns(golden):
    """A case's columns `[B, n, D]` and their gradients: as many as have one."""
    number = sum(key.startswith("grad_emb_") for key in golden)
    return tuple(
        np.stack([golden[f"{kind}_{i}"] for i in range(number)], axis=1)
        for kind in ("emb", "grad_emb")
    )


def assert_equal(loss, y_true, y_pred, value, gradient, rtol, compiled=True, head=None,
                 of_weights=(), sample_weight=None):  # fmt: skip
    """The loss and its gradient, in norm, up to `rtol`.

    With a head, of `loss(y_true, head(y_pred))` and its regularizers; `of_weights` are the
    gradients of the head's weights.
    """
    y_pred = tf.constant(y_pred, loss.dtype)
    weights = [] if head is None else [weight.value for weight in head.trainable_weights]
    lengths = getattr(loss, "lengths", None)  # which a CosineHead gives
    options = {"lengths": lengths} if lengths else {}
    with kernels(compiled), tf.GradientTape() as tape:
        tape.watch(y_pred)
        scores = y_pred if head is None else head(y_pred, **options)
        result = loss(y_true, scores, sample_weight)
        result += 0 if head is None else sum(head.losses)
    with kernels(compiled):
        ours = tape.gradient(result, [y_pred, *weights])
    np.testing.assert_allclose(result, value, rtol=rtol, atol=1e-12)
    for one, expected in zip(ours, [gradient, *of_weights], strict=True):
        error = np.linalg.norm(one - expected)
        assert error <= rtol * np.linalg.norm(expected) + 1e-12
