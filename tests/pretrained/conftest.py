"""The golden checkpoint folders."""

import pathlib
import zipfile

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """The folder of all checkpoints, and the peer's arrays by name."""
    folder = tmp_path_factory.mktemp("golden")
    here = pathlib.Path(__file__).resolve().parents[1] / "golden"
    with zipfile.ZipFile(here / "pretrained.zip") as archive:
        archive.extractall(folder)
    return folder, dict(np.load(folder / "embeddings.npz"))
