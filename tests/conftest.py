"""What holds for all tests: how much is optimised, and in which order they run."""

import os

# Hundreds of small kernels, each for a few calls: LLVM would optimise them for longer than
# they run. Before TensorFlow is imported; the processes of tests inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import tensorflow as tf

# Nor does Grappler pay in a few steps. The processes of tests that train longer have it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

LONGEST = ["test_replicas.py", "test_resume.py"]  # with processes of their own


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
