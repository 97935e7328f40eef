"""Every loss has the peers' values and gradients: one test over `golden_table.GOLDENS`."""

import goldens
import pytest
from golden_table import GOLDENS, PML

plain_kernels = goldens.plain_kernels


def runs():
    """(golden, case, dtype, rtol, whether XLA compiles the kernels).

    That takes seconds, so one of each loss is compiled.
    """
    in_xla = set()
    for golden in GOLDENS:
        if golden.runs is not None:
            of_golden = golden.runs
        elif golden.library == PML:
            of_golden = [(*run, run[1] == "float32") for run in goldens.ROW_RUNS]
        else:
            of_golden = [run[1:] for run in goldens.runs([golden.name])]
        for *run, compiled in of_golden:
            loss = golden.id.split("-")[0]
            compiled = compiled and loss not in in_xla
            if compiled:
                in_xla.add(loss)
            name = "-".join(map(str, (golden.id, *run[:2])))
            yield pytest.param(golden, *run, compiled, id=name)


@pytest.mark.parametrize("golden, case, dtype, rtol, compiled", runs())
def test_equals_the_peer(golden, case, dtype, rtol, compiled):
    arrays = goldens.arrays(golden.library, golden.name, case)
    y_true, y_pred, gradient = golden.inputs(arrays)
    head, of_weights = None, ()
    if golden.head is not None:
        head, of_weights = golden.head(arrays, dtype)
    loss = golden.loss(arrays, dtype)
    assert loss.dtype == dtype
    weights = None if golden.weights is None else golden.weights(arrays)
    goldens.assert_equal(
        *(loss, y_true, y_pred, arrays["loss"], gradient, rtol, compiled),
        *(head, of_weights, weights),
    )
