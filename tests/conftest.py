"""What begins before the first test."""

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
