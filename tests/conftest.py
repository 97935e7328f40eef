"""What holds for all tests: how much is optimized, which run, and in which order."""

import os

# Hundreds of small kernels, each for a few calls: LLVM would optimize them for longer than
# they run. Before TensorFlow is imported; the processes of tests inherit it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1",
)
# For oneDNN every graph is rewritten before its first call, which takes as long as many.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import processes
import pytest

# Files whose tests start processes of their own, the longest first.
PROCESSES = [
    "test_replicas.py",
    "test_callbacks.py",
    "test_resume.py",
    "test_synthesis.py",
    "test_export.py",
]
# Folders whose tests use losses and are not about them: there a loss's kernels are graphs
# of TensorFlow. Choosing between these and XLA's would trace each twice, and compile it.
WITHOUT_XLA = ["callbacks", "data", "evaluation", "export", "models", "synthesis", "text"]


def pytest_collection():
    """Where tests are collected: the process that hands them out needs no TensorFlow."""
    import tensorflow as tf

    # Nor does Grappler pay in a few steps. Processes of tests that train longer have it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # TensorFlow and Keras alone are left out: an export looks for tables among all objects
    # that are collected, and some belong to modules of tests.
    processes.collect_garbage_rarely()


def pytest_addoption(parser):
    """`--loss CircleLoss`: the tests of one loss, trained on 1, 2 and 4 replicas too."""
    parser.addoption("--loss", help="only the tests of this loss, by its class's name")


@pytest.fixture(autouse=True)
def kernels_without_xla(request, monkeypatch):
    """Unless XLA compiles the whole step, or the file is about replayed kernels."""
    path = request.path
    if path.parent.name in WITHOUT_XLA and path.name != "test_grad_cache.py":
        from tfembloss import kernels

        monkeypatch.setattr(kernels, "_use_xla", lambda arguments: 0)


@pytest.fixture(scope="session")
def only_loss(request):
    """The class's name that `--loss` gives, or None."""
    return request.config.getoption("--loss")


def pytest_collection_modifyitems(config, items):
    """Marks and orders the tests, and leaves those of one loss if there is `--loss`."""
    for item in items:
        if item.path.name in PROCESSES:
            item.add_marker(pytest.mark.processes)
    loss = config.getoption("--loss")

    def is_wanted(item):
        if item.name == "test_one_loss_trains_as_one":
            return loss is not None
        return loss is None or loss in item.name

    left_out = [item for item in items if not is_wanted(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = filter(is_wanted, items)
    # The longest files first, so that no worker is left alone with one at the end.
    order = {name: place for place, name in enumerate(PROCESSES)}
    items.sort(key=lambda item: order.get(item.path.name, len(PROCESSES)))
