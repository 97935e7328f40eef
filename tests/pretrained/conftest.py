"""The golden checkpoint folders."""

import numpy as np
import pytest
from checkpoints import unpack


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """The folder of all checkpoints, and the peer's arrays by name."""
    folder = unpack(tmp_path_factory.mktemp("golden"))
    return folder, dict(np.load(folder / "embeddings.npz"))
