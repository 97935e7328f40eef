"""The same numbers on one replica and on several, in one process and in two."""

import json
import socket

import numpy as np
import pytest
from cases import CASES, ONE_OF_EACH_KIND, ONE_OF_EACH_LOSS
from replica_runs import Run


def train(folder, num_replicas, *options):
    return Run(folder, num_replicas, *options).finish()


def assert_same(results, expected):
    assert results
    for name, value in results.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.fixture(scope="module")
def every_case(tmp_path_factory):
    """Results of every case by the number of replicas.

    On 2 there is one of each loss, on 4 of each kind, as there each takes a second;
    `--loss` runs all of one. Several hold different numbers of rows, on 4 the last no valid
    anchor.
    """
    of_two = dict.fromkeys([*ONE_OF_EACH_LOSS, *ONE_OF_EACH_KIND])
    options = {
        1: ["--eager"],
        2: ["--eager", "--uneven", "--only", *of_two],
        4: ["--eager", "--uneven", "--only", *ONE_OF_EACH_KIND],
    }
    folder = tmp_path_factory.mktemp("every_case")
    runs = {n: Run(folder / str(n), n, *those) for n, those in options.items()}
    return {n: run.finish() for n, run in runs.items()}


@pytest.mark.parametrize("num_replicas", [2, 4])
def test_several_replicas_train_as_one(every_case, num_replicas):
    assert_same(every_case[num_replicas], every_case[1])


def test_one_loss_trains_as_one(only_loss, tmp_path):
    """That of `--loss`, in a graph and eagerly; without the option it is not collected."""
    names = [name for name in CASES if name.split("-")[0] == only_loss]
    assert names, f"no case of {only_loss} in tests/cases.py"
    runs = {
        (n, *how): Run(tmp_path / f"{n}{len(how)}", n, *how, "--only", *names)
        for n, *how in ((1,), (2, "--uneven"), (4, "--eager", "--uneven"))
    }
    one, *others = (run.finish() for run in runs.values())
    for several in others:
        assert_same(several, one)


def test_any_keras_model_trains_as_one(tmp_path):
    """Of each kind of Keras, on ids of every dtype, the last batch uneven.

    Of four replicas the last one once has no rows.
    """
    names = [*ONE_OF_EACH_KIND, "MultipleNegativesRankingLoss-manhattan"]
    runs = {
        n: Run(
            *(tmp_path / str(n), n, "--eager", "--stock", "--rows", "11"),
            *("--only", *(names if n < 4 else names[::3])),
        )
        for n in (1, 2, 4)
    }
    one, two, four = (run.finish() for run in runs.values())
    assert len(two) == 2 * len(names)
    assert_same(two, one)
    assert_same(four, one)


def test_without_gathering_they_do_not(every_case, tmp_path):
    results = train(tmp_path, 2, "--eager", "--no-gather", "--only", *ONE_OF_EACH_KIND)
    for name, value in results.items():
        assert np.abs(value - every_case[1][name]).max() > 1e-3, name


def test_string_ids(every_case, tmp_path):
    options = [  # in a graph
        "--no-xla",
        "--string-ids",
        "--only",
        "MultipleNegativesRankingLoss-ids",
        "BatchAllTripletLoss",
        "LiftedStructureLoss",
    ]
    assert_same(train(tmp_path, 2, *options), every_case[1])


FIT = "--fit", "MultipleNegativesRankingLoss-ids", "--models", "tasks", "mixed", "shards"


@pytest.fixture(scope="module")
def alone_through_fit(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), 1, *FIT)


def test_fit_on_several_replicas(alone_through_fit, tmp_path):
    assert_same(train(tmp_path, 2, *FIT), alone_through_fit)


def test_classifiers_and_towers_on_several_replicas(tmp_path):
    # In a graph, and on four, each takes seconds: one model of each way of its own to
    # gather in a graph on two, and the others eagerly on four.
    in_graph = [
        "ArcFaceLoss",
        "sampled",
        "memory",
        "MoCo",
        "CLIPLoss",
        "cross",
        "lists",
        "tension",
        "mining",
        "texts",
    ]
    others = [
        "ProxyAnchorLoss",
        "MarginLoss",
        "histogram",
        "optimizers",
        "BYOL",
        "scale",
        "scale in parts",
        "sum",
        "SigLIPLoss",
        "texts",
        "layers",
        "DenoisingAutoEncoderLoss",
        "lists of pairs",
        "drawn",
    ]
    options = {1: ["--eager", "--models"], 2: ["--no-xla", "--models", *in_graph]}
    more = ["sampled", "memory", "gathered shards"]
    options[4] = ["--eager", "--models", *others, *more]
    one, two, four = (Run(tmp_path / str(n), n, *how) for n, how in options.items())
    expected = one.finish()
    assert_same(two.finish(), expected)
    assert_same(four.finish(), expected)


def test_fit_on_two_workers(alone_through_fit, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = [
        Run(
            tmp_path / str(i),
            1,
            *FIT,
            TF_CONFIG=json.dumps(
                {"cluster": cluster, "task": {"type": "worker", "index": i}}
            ),
        )
        for i in range(2)
    ]
    results = [worker.finish() for worker in workers]
    assert_same(results[0], alone_through_fit)
