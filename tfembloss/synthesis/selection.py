"""Selects a query's negatives among its candidates."""

import math
import numbers
import random

import numpy as np

from tfembloss.checks import integer
from tfembloss.synthesis.scoring import ROUNDING


def generator(sampling, seed):
    """Returns a random generator for a random sample, else None."""
    if sampling not in ("top", "random"):
        raise ValueError(
            f"Expected sampling='top' or sampling='random'. Received: {sampling!r}"
        )
    if sampling == "top":
        return None
    seed = random.getrandbits(64) if seed is None else integer("seed", seed, 0)
    return np.random.default_rng(seed)


def check_conditions(**conditions):
    """Returns the conditions that are given, as numbers."""
    given = {name: value for name, value in conditions.items() if value is not None}
    for name, value in given.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ValueError(
                f"Expected a finite number or None. Received: {name}={value!r}"
            )
    if given.get("min_score", -math.inf) > given.get("max_score", math.inf):
        raise ValueError(
            "Expected min_score <= max_score, or no text can be a negative. Received: "
            f"min_score={given['min_score']}, max_score={given['max_score']}"
        )
    return given


def remove(scores, lowest, conditions, least):
    """Returns which candidates remain, and how many each condition has removed.

    Args:
        scores: scores of the candidates, `[M]`.
        lowest: for each candidate the lowest score of its query's positives, `[M]`.
        conditions: dict of name to value.
        least: minimum of the magnitude to which the rounding is relative.
    """
    scores, lowest = scores.astype("float64"), lowest.astype("float64")
    tests = {  # for each condition the limit of the score, and the side that is removed
        "absolute_margin": lambda margin: (lowest - margin, 1),
        "relative_margin": lambda margin: (lowest - np.abs(lowest) * margin, 1),
        "max_score": lambda score: (score, 1),
        "min_score": lambda score: (score, -1),
    }
    remain, removed = np.ones(len(scores), bool), {}
    for name, value in conditions.items():
        limit, side = tests[name](float(value))
        rounding = ROUNDING * np.maximum(np.abs(scores), np.abs(limit)).clip(least)
        fails = remain & (side * (scores - limit) > rounding)
        removed[f"{name}={value}"] = int(fails.sum())
        remain &= ~fails
    return remain, removed


def take(remain, scores, range_min, num_negatives, rng):
    """Returns the indices of the negatives among a query's candidates, best first."""
    (places,) = np.nonzero(remain)
    places = places[np.argsort(-scores[places], kind="stable")][range_min:]
    if rng is None or len(places) <= num_negatives:
        return places[:num_negatives]
    return places[np.sort(rng.choice(len(places), num_negatives, replace=False))]


def summary(taken, num_negatives, positive_scores, scores, removed):
    """Describes the result in a few lines."""
    sizes = np.array(list(map(len, taken)))
    num_all, num_none = np.sum(sizes == num_negatives), np.sum(sizes == 0)
    lines = [
        f"{len(sizes):,} queries, {len(positive_scores):,} positives: {num_all:,} queries "
        f"with all {num_negatives} negatives, {len(sizes) - num_all - num_none:,} with "
        f"fewer, {num_none:,} with none.",
        f"{len(scores):,} candidates"
        + "".join(f"; {count:,} removed by {name}" for name, count in removed.items())
        + ".",
    ]
    if sizes.any():
        of_negatives = scores[np.concatenate(taken)]
        lines.append(
            f"Mean score of a positive {positive_scores.mean():.3f}, of a negative "
            f"{of_negatives.mean():.3f}."
        )
    if num_all < len(sizes):
        names = [name.partition("=")[0] for name, count in removed.items() if count]
        lines.append(
            f"For more: a larger range_max{''.join(f', another {n}' for n in names)}."
        )
    return "\n".join(lines)
