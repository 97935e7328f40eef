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


def distance(name, a, b):
    """Distance of two vectors."""
    if name == "cosine":
        return 1 - similarity("cosine", a, b)
    if name == "squared_euclidean":
        return np.sum((a - b) ** 2)
    if name == "normalized_euclidean":
        a, b = (x / (np.linalg.norm(x) or 1) for x in (a, b))
        return np.sqrt(np.sum((a - b) ** 2))
    return -similarity(name, a, b)


def distances(name, x):
    """Distances of all rows [B, B]."""
    return np.array([[distance(name, a, b) for b in x] for a in x])


def positives(ids, a):
    """The other rows of a row's class."""
    return [j for j in range(len(ids)) if j != a and ids[j] == ids[a]]


def negatives(ids, a):
    """The rows of other classes."""
    return [j for j in range(len(ids)) if ids[j] != ids[a]]


def all_triplets(ids):
    """All (anchor, positive, negative)."""
    rows = range(len(ids))
    return [(a, p, n) for a in rows for p in positives(ids, a) for n in negatives(ids, a)]


def all_pairs(ids):
    """All positive and all negative pairs."""
    rows = range(len(ids))
    return (
        [(a, p) for a in rows for p in positives(ids, a)],
        [(a, n) for a in rows for n in negatives(ids, a)],
    )


def triplets_of_pairs(pairs):
    """All triplets of which both pairs are selected."""
    return [(a, p, n) for a, p in pairs[0] for b, n in pairs[1] if a == b]


def pairs_of_triplets(triplets):
    """Both pairs of each triplet, as often as they stand in one."""
    return [(a, p) for a, p, _ in triplets], [(a, n) for a, _, n in triplets]


def shares(sums, counts):
    """Values [B] whose mean is the quotient of the totals."""
    return np.array(sums) * len(sums) / max(np.sum(counts), 1)


def softplus(x):
    """log(1 + e^x)."""
    return np.logaddexp(0, x)


def log_sum_exp(terms):
    """log of the sum of e^t; -inf for none."""
    return np.logaddexp.reduce(list(terms), initial=-np.inf)


def triplet_margin(ids, x, margin=0.05, distance="normalized_euclidean", swap=False,
                   smooth=False, triplets=None):  # fmt: skip
    """Values [B] of the given triplets; None: of all."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p, n in all_triplets(ids) if triplets is None else triplets:
        negative = min(d[a, n], d[p, n]) if swap else d[a, n]
        violation = d[a, p] + margin - negative
        sums[a] += softplus(violation) if smooth else max(0, violation)
        counts[a] += smooth or violation > 0
    return shares(sums, counts)


def batch_hard(ids, x, margin=5.0, distance="euclidean", soft=False):
    """Values [B]."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        if positives(ids, a) and negatives(ids, a):
            gap = max(d[a, p] for p in positives(ids, a))
            gap -= min(d[a, n] for n in negatives(ids, a))
            sums[a] = softplus(gap) if soft else max(0, gap + margin)
            counts[a] = 1
    return shares(sums, counts)


def batch_semi_hard(ids, x, margin=5.0, distance="euclidean"):
    """Values [B]."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        for p in positives(ids, a):
            all_of_them = [d[a, n] for n in negatives(ids, a)]
            if all_of_them:
                farther = [dn for dn in all_of_them if dn > d[a, p]]
                chosen = min(farther) if farther else max(all_of_them)
                sums[a] += max(0, d[a, p] - chosen + margin)
                counts[a] += 1
    return shares(sums, counts)


def triplet(columns, margin=5.0, distance_name="euclidean"):
    """Values [B] of the columns anchor, positive, negative."""
    return np.array([
        max(0, distance(distance_name, a, p) - distance(distance_name, a, n) + margin)
        for a, p, n in columns
    ])  # fmt: skip


def nt_xent(ids, x, temperature=0.07, distance="cosine", pairs=None):
    """Values [B]."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    near, far = all_pairs(ids) if pairs is None else pairs
    for a, p in near:
        own = -d[a, p] / temperature
        rivals = [-d[a, n] / temperature for b, n in far if b == a]
        sums[a] += log_sum_exp([own, *rivals]) - own
        counts[a] += 1
    return shares(sums, counts)


def sup_con(ids, x, temperature=0.1, distance="cosine"):
    """Values [B]."""
    logits = -distances(distance, x) / temperature
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        near, far = positives(ids, a), negatives(ids, a)
        if near and far:
            total = log_sum_exp(logits[a, j] for j in near + far)
            sums[a] = np.mean([total - logits[a, p] for p in near])
            counts[a] = sums[a] > 0
    return shares(sums, counts)


def multi_similarity(ids, x, alpha=2.0, beta=50.0, base=0.5, pairs=None):
    """Values [B], on cosines."""
    s = 1 - distances("cosine", x)
    near, far = all_pairs(ids) if pairs is None else pairs
    values = np.zeros(len(x))
    for a in range(len(x)):
        pull = sum(np.exp(-alpha * (s[a, p] - base)) for b, p in near if b == a)
        push = sum(np.exp(beta * (s[a, n] - base)) for b, n in far if b == a)
        values[a] = np.log(1 + pull) / alpha + np.log(1 + push) / beta
    return values


def circle(ids, x, m=0.4, gamma=80.0, constant=None):
    """Values [B]; the weights are those of the embeddings `constant`."""
    s = 1 - distances("cosine", x)
    w = s if constant is None else 1 - distances("cosine", constant)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        near, far = positives(ids, a), negatives(ids, a)
        if near and far:
            sums[a] = softplus(
                log_sum_exp(-gamma * max(0, 1 + m - w[a, p]) * (s[a, p] - 1 + m)
                            for p in near)
                + log_sum_exp(gamma * max(0, w[a, n] + m) * (s[a, n] - m) for n in far)
            )  # fmt: skip
            counts[a] = sums[a] > 0
    return shares(sums, counts)


def lifted(ids, x, neg_margin=1.0, pos_margin=0.0, distance="normalized_euclidean",
           pairs=None):  # fmt: skip
    """Values [B]."""
    d = distances(distance, x)
    near, far = all_pairs(ids) if pairs is None else pairs
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in near:
        rivals = log_sum_exp(neg_margin - d[b, n] for b, n in far if b in (a, p))
        sums[a] += max(0, rivals + d[a, p] - pos_margin) ** 2 / 2
        counts[a] += 1
    return shares(sums, counts)


def generalized_lifted(ids, x, neg_margin=1.0, pos_margin=0.0):
    """Values [B]."""
    d = distances("normalized_euclidean", x)
    values = np.zeros(len(x))
    for a in range(len(x)):
        near, far = positives(ids, a), negatives(ids, a)
        pull = log_sum_exp(d[a, p] - pos_margin for p in near) if near else 0
        push = log_sum_exp(neg_margin - d[a, n] for n in far) if far else 0
        values[a] = max(0, pull + push)
    return values


def n_pairs(ids, x, distance="cosine"):
    """Values [B]; those of the first rows of their classes are not 0."""
    d = distances(distance, x)
    pairs = {}  # class -> its first two rows
    for row, one in enumerate(ids):
        pairs.setdefault(one, []).append(row)
    pairs = [rows[:2] for rows in pairs.values() if len(rows) > 1]
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in pairs:
        sums[a] = log_sum_exp(-d[a, other] for _, other in pairs) + d[a, p]
        counts[a] = 1
    return shares(sums, counts)


def margin(ids, x, margin=0.2, beta=1.2, triplets=None):
    """Values [B]."""
    d = distances("normalized_euclidean", x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p, n in all_triplets(ids) if triplets is None else triplets:
        for term in (d[a, p] - beta + margin, beta - d[a, n] + margin):
            sums[a] += max(0, term)
            counts[a] += term > 0
    return shares(sums, counts)


def mine_triplet_margin(ids, d, margin=0.2, type_of_triplets="all"):
    """Triplets."""

    def selected(gap):
        return {
            "all": gap <= margin,
            "hard": gap <= min(0, margin),
            "semihard": 0 < gap <= margin,
            "easy": gap > margin,
        }[type_of_triplets]  # fmt: skip

    return [(a, p, n) for a, p, n in all_triplets(ids) if selected(d[a, n] - d[a, p])]


def mine_easy_hard(ids, d, pos_strategy, neg_strategy, pos_range=None, neg_range=None):
    """Positive and negative pairs."""

    def allowed(value, limits):
        return limits is None or limits[0] <= value <= limits[1]

    def choose(strategy, a, rows, farthest_is):
        if not rows:
            return []
        if strategy == "all":
            return rows
        best = max if (strategy == "easy") != (farthest_is == "hard") else min
        return [best(rows, key=lambda j: d[a, j])]  # the first of equal ones

    near, far = [], []
    for a in range(len(ids)):
        p_all, n_all = positives(ids, a), negatives(ids, a)
        p_may = p_all if pos_strategy == "all" else [
            p for p in p_all if allowed(d[a, p], pos_range)]  # fmt: skip
        n_may = n_all if neg_strategy == "all" else [
            n for n in n_all if allowed(d[a, n], neg_range)]  # fmt: skip
        if pos_strategy == "semihard":
            n_may = choose(neg_strategy, a, n_may, "easy")
            p_may = [p for p in p_may if n_may and d[a, p] < d[a, n_may[0]]]
            p_may = choose("hard", a, p_may, "hard")
        else:
            p_may = choose(pos_strategy, a, p_may, "hard")
            if neg_strategy == "semihard":
                n_may = [n for n in n_may if p_may and d[a, n] > d[a, p_may[0]]]
            n_may = choose("hard" if neg_strategy == "semihard" else neg_strategy, a, n_may,
                           "easy")  # fmt: skip
        if "all" in (pos_strategy, neg_strategy) or (p_may and n_may):
            near += [(a, p) for p in p_may]
            far += [(a, n) for n in n_may]
    return near, far


def mine_multi_similarity(ids, d, epsilon=0.1):
    """Positive and negative pairs."""
    near, far = [], []
    for a in range(len(ids)):
        p_all, n_all = positives(ids, a), negatives(ids, a)
        if p_all and n_all:
            near += [(a, p) for p in p_all if d[a, p] + epsilon > min(d[a, n_all])]
            far += [(a, n) for n in n_all if d[a, n] - epsilon < max(d[a, p_all])]
    return near, far


def mine_pair_margin(ids, d, pos_margin=0.2, neg_margin=0.8):
    """Positive and negative pairs."""
    near, far = all_pairs(ids)
    return (
        [(a, p) for a, p in near if d[a, p] > pos_margin],
        [(a, n) for a, n in far if d[a, n] < neg_margin],
    )


def mine_hdc(ids, d, filter_percentage=0.5):
    """Positive and negative pairs."""
    near, far = all_pairs(ids)
    near = sorted(near, key=lambda pair: -d[pair])[
        : int(np.ceil(filter_percentage * len(near)))
    ]
    far = sorted(far, key=lambda pair: d[pair])[
        : int(np.ceil(filter_percentage * len(far)))
    ]
    return near, far


def mine_angular(ids, x, angle=20):
    """Triplets."""

    def seen(a, p, n):
        middle = (x[a] + x[p]) / 2
        half = np.linalg.norm(x[a] - x[p]) / 2
        return np.arctan2(half, np.linalg.norm(x[n] - middle)) > np.radians(angle)

    return [one for one in all_triplets(ids) if seen(*one)]
