"""The losses as nested loops over their formulas, in numpy float64.

Written from the papers, for reading and not for speed; nothing of tfembloss is used.
"""

import numpy as np


def similarity(name, a, b):
    """Similarity of two vectors."""
    if name == "dot":
        return a @ b
    if name == "euclidean":
        return -np.sqrt(np.sum((a - b) ** 2))
    if name == "manhattan":
        return -np.sum(np.abs(a - b))
    if name != "cosine":
        raise ValueError(name)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def multiple_negatives_ranking(ids, columns, scale=20.0, similarity_name="cosine",
                               symmetric=False):  # fmt: skip
    """Values [B]. `ids` None: every other row's documents are negatives."""
    num_rows, num_columns, _ = columns.shape

    def value(query, own, candidates):
        scores = [scale * similarity(similarity_name, query, c) for c in candidates]
        own_score = scale * similarity(similarity_name, query, own)
        return np.log(sum(np.exp(s - own_score) for s in scores))

    values = np.zeros(num_rows)
    for i in range(num_rows):
        usable = [j for j in range(num_rows) if j == i or ids is None or ids[j] != ids[i]]
        anchor, positive = columns[i, 0], columns[i, 1]
        documents = [columns[j, c] for j in usable for c in range(1, num_columns)]
        values[i] = value(anchor, positive, documents)
        if symmetric:
            backward = value(positive, anchor, [columns[j, 0] for j in usable])
            values[i] = (values[i] + backward) / 2
    return values
