"""Which queries are lost from one ranking to another."""

import numpy as np
import pytest

from tfembloss.evaluation import error_analysis

BEFORE = np.array([[3, 0, 1], [1, 2, 0], [2, 1, 3], [0, 1, 2]])
NOW = np.array([[0, 1, 3], [2, 0, 3], [2, 1, 3], [3, 2, 1]])
RELEVANT = [3, [1, 4], {2, 3}, 9]


def test_what_is_lost():
    assert error_analysis(BEFORE, NOW, RELEVANT) == [(1, 1, None, 2)]
    assert error_analysis(BEFORE, NOW, RELEVANT, k=2) == [(0, 1, 3, 0), (1, 1, None, 2)]
    assert error_analysis(NOW, BEFORE, RELEVANT, k=2) == []


def test_ids_and_short_rankings():
    before = {"q1": ["d3", "d0"], "q2": ["d5"]}
    now = {"q2": [], "q1": ["d0", "d3"]}
    relevant = {"q1": {"d3": 1}, "q2": "d5"}
    lost = error_analysis(before, now, relevant, k=1)
    assert sorted(lost) == [("q1", 1, 2, "d0"), ("q2", 1, None, None)]
    assert error_analysis([[1, 0]], [[-1, -1]], [1]) == [(0, 1, None, None)]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("of the same queries. Received: 4, 3 and 4", [BEFORE, NOW[:3], RELEVANT]),
        ("dicts of the same queries", [{"a": [1]}, {"b": [1]}, {"b": 1}]),
        ("`k` must be an integer", [BEFORE, NOW, RELEVANT, 0]),
    ],
)
def test_bad_arguments_are_named(message, arguments):
    with pytest.raises(ValueError, match=message):
        error_analysis(*arguments)
