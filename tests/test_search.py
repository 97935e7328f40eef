import numpy as np
import pytest
import tensorflow as tf

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


def test_packed_codes():
    queries, corpus = (np.tile(points(n, seed=n), 5)[:, :24] for n in (4, 60))
    queries[:, 5:] *= -1
    expected = search.top_k(queries, corpus, 9, "hamming")
    packed = [np.packbits(x > 0, axis=1) for x in (queries, corpus)]
    for chunk_size in (1000, 20):
        found = search.top_k(*packed, 9, "hamming", chunk_size)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"or neither\. Received: float32 and uint8"):
        search.top_k(queries[:, :3], packed[1], 9, "hamming")
    signed = [x.view("int8") for x in packed]
    for given in (signed, [signed[0], packed[1]], [packed[0], signed[1]]):
        with pytest.raises(ValueError, match="int8, which may be either"):
            search.top_k(*given, 9, "hamming")


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
    with pytest.raises(ValueError, match=r"integer >= 1.*chunk_size=-1"):
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


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k, chunk_size", [(256, 16384), (300, 350), (2000, 700)])
def test_many_neighbors_by_sorting_are_those_by_top_k(distance, k, chunk_size, monkeypatch):
    few_values = np.random.default_rng(0).integers(-2, 3, size=[2000, 2])
    queries = few_values[:70].astype("float32")
    found = search.top_k(queries, few_values, k, distance, chunk_size)
    monkeypatch.setattr(search, "_MANY", 10**9)
    expected = search.top_k(queries, few_values, k, distance, chunk_size)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_nearest_besides_what_is_excluded():
    queries, corpus = points(40), points(60, seed=1)
    rng = np.random.default_rng(0)
    excluded = [rng.choice(60, rng.integers(0, 59), replace=False) for _ in queries]
    counts = rng.integers(1, 9, size=40)
    everything = distances.get("cosine").pairwise(queries, corpus).numpy()
    for entries in (search._ENTRIES, 300):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "_ENTRIES", entries)
            nearest, rows = search.nearest_besides(queries, corpus, counts, excluded)
        for query, of_query in enumerate(rows):
            order = np.argsort(everything[query], kind="stable")
            expected = order[~np.isin(order, excluded[query])][: counts[query]]
            np.testing.assert_array_equal(of_query, expected)
            np.testing.assert_allclose(
                nearest[query], everything[query][expected], atol=1e-6
            )


def test_one_deep_query_is_searched_alone():
    depths = [10] * 1500 + [20_000] + [10] * 3
    parts = search.parts_of_like_depth(depths)
    assert sorted(np.concatenate(parts)) == list(range(1504))
    assert max(len(part) * depths[part[-1]] for part in parts) <= search._ENTRIES
    assert len(parts[0]) == 1024 and {len(p) & (len(p) - 1) for p in parts[:-1]} == {0}


@pytest.mark.parametrize("queries, corpus, message", [
    (points(2), points(0), "corpus of at least one row"),
    (points(2)[0], points(9), r"queries as an array.*\(5,\)"),
    ([[1], [1, 2]], points(9), "queries as an array.*inhomogeneous"),
    ([["a"]], points(9), "dtype string"),
    (points(2) * 1j, points(9), "dtype complex"),
    (points(2)[:, :0], points(9)[:, :0], r"shape \(2, 0\)"),
    ("text", points(9), "queries as an array"),
    (points(2), points(9) * np.float32([[1]] * 7 + [[np.inf]] * 2), "row 7 of the corpus"),
    (points(2) * np.float32([[1], [np.nan]]), points(9), "row 1 of the queries"),
    (points(2) * 1e30, points(9) * 1e30, "too large"),
], ids=range(10))  # fmt: skip
def test_what_is_no_embedding_is_refused(queries, corpus, message):
    with pytest.raises(ValueError, match=message):
        search.top_k(queries, corpus, 1, "dot")


def test_functions_of_distance():
    def never(a, b):  # infinity has a place in an order
        return tf.where(b[..., 0] > 0, tf.reduce_sum(a * b, -1), np.inf)

    nearest, _ = search.top_k(points(2), points(9), 9, never)
    assert np.isinf(nearest[:, -1]).all() and np.isfinite(nearest[:, 0]).all()
    with pytest.raises(ValueError, match=r"broadcasts.*\(2, 9\).*shape \(\)"):
        search.top_k(points(2), points(9), 1, lambda a, b: tf.reduce_sum(a * b))
    for k in (2.5, "1", None):
        with pytest.raises(ValueError, match="k"):
            search.top_k(points(2), points(9), k)
