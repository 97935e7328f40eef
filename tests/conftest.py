"""What begins before the first test."""

import os

# Hundreds of small kernels, each for a few calls: LLVM would optimise them for longer than
# they run. Before TensorFlow is imported; the processes of tests inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest
import replica_runs


@pytest.fixture(scope="session", autouse=True)
def replica_runs_of_every_case(request, tmp_path_factory):
    """The longest runs of test_replicas begin with the first test, on the other core."""
    if all(item.path.name != "test_replicas.py" for item in request.session.items):
        yield None
        return
    runs = replica_runs.every_case(tmp_path_factory.mktemp("every_case"))
    yield runs
    for run in runs.values():
        run.process.kill()
