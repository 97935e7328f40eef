import numpy as np
import pytest

from tfembloss import distances, search


def points(rows, seed=0):
    return np.random.default_rng(seed).normal(size=[rows, 5]).astype("float32")


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("num_queries, num_rows, k, chunk_size", [
    (3, 40, 7, 1000),  # one chunk
    (3, 40, 7, 9),  # the last chunk is smaller than k
    (3, 40, 40, 16),  # all rows
    (1100, 30, 2, 7),  # several chunks of queries
    (3, 1000, 2, 450),  # by blocks, and some columns that make none
])  # fmt: skip
def test_is_the_sorted_distances(distance, num_queries, num_rows, k, chunk_size):
    queries, corpus = points(num_queries), points(num_rows, seed=1)
    nearest, rows = search.top_k(queries, corpus, k, distance, chunk_size)
    everything = distances.get(distance).pairwise(queries, corpus).numpy()
    expected = np.argsort(everything, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(
        nearest, np.take_along_axis(everything, expected, 1), rtol=1e-5, atol=1e-6
    )


def test_ties_keep_the_order_of_the_corpus():
    corpus = np.ones([50, 5], "float32")
    _, rows = search.top_k(points(2), corpus, 6, chunk_size=4)
    np.testing.assert_array_equal(rows, [np.arange(6)] * 2)
    few_values = np.random.default_rng(0).integers(3, size=[2000, 1]).astype("float32")
    queries = np.array([[1.0], [-1.0], [0.0]], "float32")
    order = np.argsort(-queries * few_values[:, 0], axis=1, kind="stable")
    for k, chunk_size in ((1, 16384), (5, 16384), (5, 350), (5, 333), (700, 16384)):
        _, rows = search.top_k(queries, few_values, k, "dot", chunk_size)
        np.testing.assert_array_equal(rows, order[:, :k])


def test_a_corpus_on_disk(tmp_path):
    corpus = points(100)
    np.save(tmp_path / "corpus.npy", corpus)
    on_disk = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    _, rows = search.top_k(corpus[:4], on_disk, 1, chunk_size=30)
    np.testing.assert_array_equal(rows[:, 0], np.arange(4))


def test_no_queries():
    nearest, rows = search.top_k(points(3)[:0], points(9), 2)
    assert nearest.shape == rows.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 10])
def test_k_outside_the_corpus_is_refused(k):
    with pytest.raises(ValueError, match=f"1 <= k <= 9 rows. Received: k={k}"):
        search.top_k(points(2), points(9), k)


def test_numbers_of_numpy_and_bad_chunks():
    _, rows = search.top_k(points(2), points(9), np.int64(3))
    assert rows.shape == (2, 3)
    with pytest.raises(ValueError, match=r"chunk_size >= 1. Received: -1"):
        search.top_k(points(2), points(9), 3, chunk_size=-1)


def test_wrong_shapes_and_nan_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(9, 5\)"):
        search.top_k(points(2)[:, :4], points(9), 1)
    with pytest.raises(ValueError, match="queries"):
        search.top_k(points(2)[0], points(9), 1)
    corpus = points(9)
    corpus[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        search.top_k(points(2), corpus, 1, chunk_size=4)
