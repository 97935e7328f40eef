"""The same numbers on one replica and on several, in one process and in two."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "distributed" / "train.py"


def start(out, num_replicas, *options, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), str(num_replicas), *options],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-5000:]


def train(folder, num_replicas, *options):
    out = folder / "result.npz"
    finish(start(out, num_replicas, *options))
    return dict(np.load(out))


def assert_same(results, expected):
    assert results
    for name, value in results.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.fixture(scope="module")
def every_case(tmp_path_factory):
    """Every case on 1, 2 and 4 replicas: these long runs go side by side.

    On 4, replicas hold different numbers of rows, and the last no valid anchor.
    """
    folder = tmp_path_factory.mktemp("every_case")
    processes = {
        num_replicas: start(folder / f"{num_replicas}.npz", num_replicas, *options)
        for num_replicas, options in {1: [], 2: [], 4: ["--uneven"]}.items()
    }
    for process in processes.values():
        finish(process)
    return {n: dict(np.load(folder / f"{n}.npz")) for n in processes}


@pytest.mark.parametrize("num_replicas", [2, 4])
def test_several_replicas_train_as_one(every_case, num_replicas):
    assert_same(every_case[num_replicas], every_case[1])


ONE_OF_EACH_KIND = [
    "ranking-symmetric-ids",
    "batch-all",
    "batch-hard",
    "triplet-swap",
    "triplet-semihard-mined",
    "triplet-hdc-mined",
    "nt-xent",
    "lifted",
    "n-pairs",
]


def test_without_gathering_they_do_not(every_case, tmp_path):
    results = train(tmp_path, 2, "--no-gather", "--only", *ONE_OF_EACH_KIND)
    for name, value in results.items():
        assert np.abs(value - every_case[1][name]).max() > 1e-3, name


def test_string_ids(every_case, tmp_path):
    options = ["--string-ids", "--only", "ranking-ids", "batch-all", "lifted"]
    assert_same(train(tmp_path, 2, *options), every_case[1])


FIT = ("--fit", "ranking-symmetric-negatives", "ranking-ids")


@pytest.fixture(scope="module")
def alone_through_fit(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), 1, *FIT)


def test_fit_on_several_replicas(alone_through_fit, tmp_path):
    assert_same(train(tmp_path, 2, *FIT), alone_through_fit)


def test_fit_on_two_workers(alone_through_fit, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = [
        start(
            tmp_path / "result.npz",
            1,
            *FIT,
            TF_CONFIG=json.dumps(
                {"cluster": cluster, "task": {"type": "worker", "index": i}}
            ),
        )
        for i in range(2)
    ]
    for worker in workers:
        finish(worker)
    assert_same(dict(np.load(tmp_path / "result.npz")), alone_through_fit)
