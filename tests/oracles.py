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


def may_be_negative(ids, i, j, column=1):
    """Whether a document of row j may be a negative of anchor i.

    `ids` are None or empty, of rows `[B]`, or of each of their texts `[B, n]`.
    """
    if ids is None or ids.size == 0:
        return (i, 1) != (j, column)
    if ids.ndim == 1:
        return (i, 1) != (j, column) and (i == j or ids[i] != ids[j])
    anchor, positive = ids[i, :2]
    if ids[j, column] in (anchor, positive):
        return False
    return not (column == 1 and ids[j, 0] == anchor)  # another positive of the anchor


def multiple_negatives_ranking(ids, columns, scale=20.0, similarity_name="cosine",
                               symmetric=False, absolute_margin=None, relative_margin=None,
                               directions=("query_to_doc",), partition="joint",
                               hardness=None, hardness_strength=0.0,
                               constant=None):  # fmt: skip
    """Values [B]. `ids` None: every other row's documents are negatives."""
    constant = columns if constant is None else constant
    num_rows, num_columns, _ = columns.shape
    all_documents = [(j, c) for j in range(num_rows) for c in range(1, num_columns)]
    if symmetric:
        directions, partition = ("query_to_doc", "doc_to_query"), "per_direction"

    def similar(a, b):
        return similarity(similarity_name, columns[a], columns[b])

    def is_other_anchor(i, j):  # for the texts of row i
        if i == j or ids is None or ids.ndim == 1:
            return i != j and (ids is None or ids[i] != ids[j])
        return ids[j, 0] not in ids[i, :2] and ids[j, 1] != ids[i, 1]

    def bonus(i, document):
        kind = "hard" if document[0] == i else "in_batch"
        if document == (i, 1) or hardness not in (kind, "all"):
            return 0
        of_constant = similarity(similarity_name, constant[i, 0], constant[document])
        return hardness_strength * of_constant

    values = np.zeros(num_rows)
    for i in range(num_rows):
        anchor, positive = (i, 0), (i, 1)
        own = similar(anchor, positive)
        negatives = [d for d in all_documents if may_be_negative(ids, i, *d)]
        if absolute_margin is not None or relative_margin is not None:
            limit = own - max(absolute_margin or 0, (relative_margin or 0) * abs(own))
            negatives = [d for d in negatives if similar(anchor, d) <= limit]
        to_documents = [
            scale * similar(anchor, d) + bonus(i, d) for d in [positive, *negatives]
        ]
        anchors = [(j, 0) for j in range(num_rows) if is_other_anchor(i, j)]
        others = [d for d in negatives if d[0] != i]
        logits = {
            "query_to_doc": to_documents,
            "doc_to_query": [scale * similar(positive, a) for a in [anchor, *anchors]],
            "query_to_query": [scale * similar(anchor, a) for a in anchors],
            "doc_to_doc": [scale * similar(positive, d) for d in others],
        }
        chosen = [logits[direction] for direction in directions]
        if partition == "joint":
            chosen = [[x for of_one in chosen for x in of_one]]
        sums = [sum(np.exp(x - scale * own) for x in of_one) for of_one in chosen]
        values[i] = np.mean(np.log(sums))
    return values


def mega_batch_margin(ids, columns, positive_margin=0.8, negative_margin=0.3):
    """Values [B]. `ids` of no entries: every other row's positive is a negative."""
    num_rows = len(columns)
    values = np.zeros(num_rows)
    for i in range(num_rows):
        anchor = columns[i, 0]
        values[i] = max(0, positive_margin - similarity("cosine", anchor, columns[i, 1]))
        others = [
            similarity("cosine", anchor, columns[j, 1])
            for j in range(num_rows)
            if may_be_negative(ids, i, j)
        ]
        if others:
            values[i] += max(0, max(others) - negative_margin)
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
    if name == "snr":
        a, b = (x / (np.linalg.norm(x) or 1) for x in (a, b))
        return np.var(a - b) / np.var(a)
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
                   smooth=False, triplets=None, mean_over="nonzero"):  # fmt: skip
    """Values [B] of the given triplets; None: of all."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p, n in all_triplets(ids) if triplets is None else triplets:
        negative = min(d[a, n], d[p, n]) if swap else d[a, n]
        violation = d[a, p] + margin - negative
        sums[a] += softplus(violation) if smooth else max(0, violation)
        counts[a] += smooth or mean_over == "all" or violation > 0
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


def histogram(ids, x, num_bins=100):
    """Values [B]; a pair counts once if either of its rows has a positive and negative."""
    s = 1 - distances("cosine", x)
    anchors = [a for a in range(len(x)) if positives(ids, a) and negatives(ids, a)]
    nodes = np.linspace(-1, 1, num_bins + 1)

    def at_nodes(value):
        return np.maximum(0, 1 - abs(value - nodes) * num_bins / 2)

    of_positives = [at_nodes(s[a, p]) for a in anchors for p in positives(ids, a)]
    up_to = np.cumsum(np.mean(of_positives, axis=0)) if anchors else 0 * nodes
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in anchors:
        for n in negatives(ids, a):
            count = 1 if n in anchors else 2  # it is n's pair, too
            sums[a] += count * at_nodes(s[a, n]) @ up_to
            counts[a] += count
    return shares(sums, counts)


def dynamic_soft_margin(ids, x, num_bins=10):
    """Values [B]."""
    d = distances("normalized_euclidean", x)
    gaps = [(a, d[a, p] - d[a, n]) for a, p, n in all_triplets(ids)]
    histogram = np.zeros(num_bins)
    bins = []
    for _, gap in gaps:
        place = (gap + 2) * num_bins / 4
        here = min(int(place), num_bins - 1)
        histogram[here] += 1 - (place - here)
        histogram[min(here + 1, num_bins - 1)] += place - here
        bins.append(here)
    weights = np.cumsum(histogram) / max(len(gaps), 1)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for (a, gap), here in zip(gaps, bins, strict=True):
        sums[a] += weights[here] * gap
        counts[a] += 1
    return shares(sums, counts)


def quadruplet(ids, x, margin=1.0, other_margin=0.5, distance="normalized_euclidean"):
    """Values [B]."""
    d = distances(distance, x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        if positives(ids, a) and negatives(ids, a):
            far = max(d[a, p] for p in positives(ids, a))
            near = min(d[a, n] for n in negatives(ids, a))
            others = [d[k, n] for k in negatives(ids, a) for n in negatives(ids, a)
                      if ids[k] != ids[n]]  # fmt: skip
            sums[a] = max(0, far - near + margin)
            sums[a] += max(0, far - min(others, default=np.inf) + other_margin)
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


def decoupled(ids, x, temperature=0.1):
    """Values [B]."""
    d = distances("cosine", x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in all_pairs(ids)[0]:
        if negatives(ids, a):
            log_sum = log_sum_exp(-d[a, n] / temperature for n in negatives(ids, a))
            sums[a] += log_sum + d[a, p] / temperature
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


def multi_similarity_of_views(_, columns, alpha=2.0, beta=50.0, base=0.5):
    """Values [B] of first views among all second views."""
    values = np.zeros(len(columns))
    for i, (first, own) in enumerate(columns):
        pull = np.exp(-alpha * (similarity("cosine", first, own) - base))
        push = sum(np.exp(beta * (similarity("cosine", first, other) - base))
                   for j, (_, other) in enumerate(columns) if j != i)  # fmt: skip
        values[i] = np.log(1 + pull) / alpha + np.log(1 + push) / beta
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


def label_contrastive(ids, x, pos_margin=0.0, neg_margin=1.0,
                      distance="normalized_euclidean", mean_over="nonzero",
                      pairs=None):  # fmt: skip
    """Values [B]."""
    d = distances(distance, x)
    near, far = all_pairs(ids) if pairs is None else pairs
    pull, push = ((np.zeros(len(x)), np.zeros(len(x))) for _ in range(2))
    for a, p in near:
        pull[0][a] += max(0, d[a, p] - pos_margin)
        pull[1][a] += mean_over != "nonzero" or d[a, p] > pos_margin
    for a, n in far:
        push[0][a] += max(0, neg_margin - d[a, n])
        push[1][a] += mean_over != "nonzero" or d[a, n] < neg_margin
    if mean_over == "anchors":
        return sum(sums / np.maximum(counts, 1) for sums, counts in (pull, push))
    return shares(*pull) + shares(*push)


def overlaps(sets):
    """Jaccard indices [B, B] of the rows' sets of labels; -1 of a row with itself."""
    index = [[len(a & b) / max(len(a | b), 1) for b in sets] for a in sets]
    return np.array(index, "float64").reshape([len(sets)] * 2) - 2 * np.eye(len(sets))


def nt_xent_of_overlaps(weights, x, temperature=0.07):
    """Values [B]: the mean over positive pairs, weighted."""
    logits = -distances("cosine", x) / temperature
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in np.argwhere(weights > 0):
        others = [logits[a, n] for n in np.flatnonzero(weights[a] == 0)]
        sums[a] += weights[a, p] * (log_sum_exp([logits[a, p], *others]) - logits[a, p])
        counts[a] += weights[a, p]
    return shares(sums, counts)


def sup_con_of_overlaps(weights, x, temperature=0.1):
    """Values [B]: MultiSupCon, the mean over positives of weighted terms."""
    logits = -distances("cosine", x) / temperature
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        near, others = np.flatnonzero(weights[a] > 0), np.flatnonzero(weights[a] >= 0)
        if len(near) and len(near) < len(others):
            total = log_sum_exp(logits[a, others])
            sums[a] = np.mean([weights[a, p] * (total - logits[a, p]) for p in near])
            counts[a] = 1
    return shares(sums, counts)


def multi_similarity_of_overlaps(weights, x, alpha=2.0, beta=50.0, base=0.5):
    """Values [B]: each positive's exponential is weighted."""
    s = 1 - distances("cosine", x)
    values = np.zeros(len(x))
    for a in range(len(x)):
        near, far = np.flatnonzero(weights[a] > 0), np.flatnonzero(weights[a] == 0)
        pull = sum(weights[a, p] * np.exp(-alpha * (s[a, p] - base)) for p in near)
        push = sum(np.exp(beta * (s[a, n] - base)) for n in far)
        values[a] = np.log(1 + pull) / alpha + np.log(1 + push) / beta
    return values


def label_contrastive_of_overlaps(weights, x, pos_margin=0.0, neg_margin=1.0):
    """Values [B]: the mean over positive pairs that are not 0 is weighted."""
    d = distances("normalized_euclidean", x)
    pull, push = ((np.zeros(len(x)), np.zeros(len(x))) for _ in range(2))
    for a, b in np.argwhere(weights >= 0):
        side, weight = (pull, weights[a, b]) if weights[a, b] else (push, 1.0)
        hinge = max(0, d[a, b] - pos_margin if side is pull else neg_margin - d[a, b])
        side[0][a] += weight * hinge
        side[1][a] += weight * (hinge > 0)
    return shares(*pull) + shares(*push)


def threshold_consistent_margin(ids, x, pos_weight=1.0, neg_weight=1.0, pos_margin=0.9,
                                neg_margin=0.5):  # fmt: skip
    """Values [B]: contrastive on cosines, each part with a weight."""
    margins = {"pos_margin": 1 - pos_margin, "neg_margin": 1 - neg_margin}
    both = label_contrastive(ids, x, **margins, distance="cosine")
    no_negatives = {**margins, "neg_margin": -9.0}
    pull = label_contrastive(ids, x, **no_negatives, distance="cosine")
    return pos_weight * pull + neg_weight * (both - pull)


def intra_pair_variance(ids, x, pos_eps=0.01, neg_eps=0.01):
    """Values [B]."""
    s = 1 - distances("cosine", x)
    near, far = all_pairs(ids)
    mean_near = np.mean([s[pair] for pair in near]) if near else 0
    mean_far = np.mean([s[pair] for pair in far]) if far else 0
    pull, push = ((np.zeros(len(x)), np.zeros(len(x))) for _ in range(2))
    for a, p in near:
        pull[0][a] += max(0, (1 - pos_eps) * mean_near - s[a, p]) ** 2
        pull[1][a] += 1
    for a, n in far:
        push[0][a] += max(0, s[a, n] - (1 + neg_eps) * mean_far) ** 2
        push[1][a] += 1
    return shares(*pull) + shares(*push)


def nca(ids, x, scale=1.0):
    """Values [B]."""
    d = distances("normalized_euclidean", x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        near, far = positives(ids, a), negatives(ids, a)
        if near:
            odds = {k: np.exp(-scale * d[a, k] ** 2) for k in near + far}
            sums[a] = -np.log(sum(odds[p] for p in near) / sum(odds.values()))
            counts[a] = 1
    return shares(sums, counts)


def tuplet_margin(ids, x, margin=0.1, scale=64.0):
    """Values [B]."""
    s = np.clip(1 - distances("cosine", x), -1, 1)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in all_pairs(ids)[0]:
        own = np.cos(np.arccos(s[a, p]) - margin)
        sums[a] += softplus(log_sum_exp(scale * (s[a, n] - own) for n in negatives(ids, a)))
        counts[a] += 1
    return shares(sums, counts)


def ranked_list(ids, x, margin=0.4, negative_temperature=10.0, imbalance=0.5, alpha=1.2,
                positive_temperature=0.0):  # fmt: skip
    """Values [B]."""
    d = distances("normalized_euclidean", x)
    values = np.zeros(len(x))
    for a in range(len(x)):
        far = [d[a, p] - (alpha - margin) for p in positives(ids, a)]
        near = [alpha - d[a, n] for n in negatives(ids, a)]
        parts = (far, positive_temperature), (near, negative_temperature)
        for weight, (excess, t) in zip((1 - imbalance, imbalance), parts, strict=True):
            excess = [e for e in excess if e > 0]
            total = sum(np.exp(t * e) for e in excess) + len(x) * 1e-5
            values[a] += weight * sum(np.exp(t * e) * e for e in excess) / total
    return values


def _over_ranks(ids, x, temperature, with_anchor, formula):
    """Values [B]: the mean of a formula of the smooth ranks of an anchor's positives."""
    d = distances("cosine", x)
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        same = positives(ids, a)
        if not same:
            continue
        same = [*same, a] if with_anchor else same
        terms = []
        for p in same:
            above = {k: 1 / (1 + np.exp((d[a, k] - d[a, p]) / temperature))
                     for k in range(len(x)) if k != p}  # fmt: skip
            nearer = sum(above[k] for k in same if k != p)
            terms.append(
                formula(nearer, sum(above[n] for n in negatives(ids, a)), len(same))
            )
        sums[a], counts[a] = np.mean(terms), 1
    return shares(sums, counts)


def smooth_ap(ids, x, temperature=0.01):
    """Values [B]."""

    def formula(near, far, _):
        return 1 - (1 + near) / (1 + near + far)

    return _over_ranks(ids, x, temperature, True, formula)


def pnp(ids, x, variant="Ds", b=2.0, alpha=1.0, temperature=0.01):
    """Values [B]."""
    formulas = {
        "O": lambda r: r,
        "Ds": lambda r: np.log(1 + r),
        "Dq": lambda r: 1 - 1 / (1 + r) ** alpha,
        "Iu": lambda r: (1 + r) * np.log(1 + r),
        "Ib": lambda r: (b * r - np.log(1 + b * r)) / b**2,
    }
    penalty = formulas[variant]
    return _over_ranks(ids, x, temperature, True, lambda near, far, _: penalty(far))


def recall_at_k_surrogate(ids, x, k=(1, 2, 4, 8, 16), temperature=0.01,
                          rank_temperature=1.0):  # fmt: skip
    """Values [B]."""

    def formula(near, far, number):
        rank = 1 + near + far
        recalls = [number / min(top, number) / (1 + np.exp((rank - top) / rank_temperature))
                   for top in k]  # fmt: skip
        return 1 - np.mean(recalls)

    return _over_ranks(ids, x, temperature, False, formula)


def fast_ap(ids, x, num_bins=10):
    """Values [B]."""
    d = distances("normalized_euclidean", x) ** 2
    width = 4 / num_bins
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a in range(len(x)):
        near, far = positives(ids, a), negatives(ids, a)
        if not near:
            continue
        up_to_near = up_to = precision = 0
        for node in range(num_bins + 1):
            at = [max(0, 1 - abs(d[a, k] - node * width) / width) for k in range(len(x))]
            here = sum(at[p] for p in near)
            up_to_near += here
            up_to += here + sum(at[n] for n in far)
            precision += here * up_to_near / up_to if up_to else 0
        sums[a], counts[a] = 1 - precision / len(near), 1
    return shares(sums, counts)


def angular(ids, x, alpha=40.0, negatives_of_length_1=True):
    """Values [B]."""
    s = 1 - distances("cosine", x)
    lengths = np.ones(len(x)) if negatives_of_length_1 else np.linalg.norm(x, axis=1)
    t = np.tan(np.radians(alpha)) ** 2
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p in all_pairs(ids)[0]:
        sums[a] += softplus(
            log_sum_exp(4 * t * lengths[n] * (s[a, n] + s[p, n]) - 2 * (1 + t) * s[a, p]
                        for n in negatives(ids, a))
        )  # fmt: skip
        counts[a] += 1
    return shares(sums, counts)


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


def margin(ids, x, margin=0.2, beta=1.2, triplets=None, nu=0.0):
    """Values [B]; beta a number, or of each anchor."""
    d = distances("normalized_euclidean", x)
    beta = np.broadcast_to(beta, len(x))
    sums, counts = np.zeros(len(x)), np.zeros(len(x))
    for a, p, n in all_triplets(ids) if triplets is None else triplets:
        for term in (d[a, p] - beta[a] + margin, beta[a] - d[a, n] + margin):
            sums[a] += max(0, term)
            counts[a] += term > 0
        sums[a] += nu * beta[a]
    return shares(sums, counts)


def learned_margin(ids, x, num_betas, nu=0.0):
    """Values [B]; the last `num_betas` numbers of a row are the boundaries of classes."""
    rows, betas = x[:, :-num_betas], x[:, -num_betas:]
    if num_betas == 1:
        return margin(ids, rows, beta=betas[:, 0]) + nu * betas[:, 0]
    return margin(ids, rows, beta=betas[np.arange(len(x)), ids], nu=nu)


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


def columns_distances(name, columns):
    """Distances [B, n - 1] of the first column and each other one."""
    return np.array(
        [[distance(name, row[0], other) for other in row[1:]] for row in columns]
    )


def cosine_similarity(scores, columns):
    """Values [B]."""
    return (1 - columns_distances("cosine", columns)[:, 0] - scores) ** 2


def contrastive(labels, columns, margin=0.5, distance="cosine"):
    """Values [B]; labels between 0 and 1 weigh both terms."""
    d = columns_distances(distance, columns)[:, 0]
    return np.array([
        (y * di**2 + (1 - y) * max(0, margin - di) ** 2) / 2
        for y, di in zip(labels, d, strict=True)
    ])  # fmt: skip


def online_contrastive(labels, columns, margin=0.5, distance="cosine"):
    """Values [B], whose mean is the sum over the hard pairs."""
    d = columns_distances(distance, columns)[:, 0]
    near = [di for y, di in zip(labels, d, strict=True) if y == 1]
    far = [di for y, di in zip(labels, d, strict=True) if y == 0]
    values = np.zeros(len(d))
    for i, (y, di) in enumerate(zip(labels, d, strict=True)):
        if y == 1 and di > (min(far) if far else np.mean(near)):
            values[i] = len(d) * di**2
        if y == 0 and di < (max(near) if near else np.mean(far)):
            values[i] = len(d) * max(0, margin - di) ** 2
    return values


def ranked_pairs(scores, logits):
    """log(1 + sum of e^(logit_i - logit_j) where score_i < score_j), and each i's sum."""
    exponents = [
        [low - high for y, high in zip(scores, logits, strict=True) if x < y]
        for x, low in zip(scores, logits, strict=True)
    ]
    total = log_sum_exp(term for row in exponents for term in row)
    shares = [np.exp(log_sum_exp(row) - total) if row else 0 for row in exponents]
    return np.logaddexp(0, total), np.array(shares)


def co_sent(scores, columns, scale=20.0):
    """Values [B]: the batch's loss, in shares of how far a row is ranked too high."""
    cosines = 1 - columns_distances("cosine", columns)[:, 0]
    loss, shares = ranked_pairs(scores, scale * cosines)
    return len(columns) * loss * shares


def angle_similarity(a, b):
    """|Re(z) + Im(z)| of z = a / b, halves of vectors as parts of complex numbers."""
    a, b = (x / (np.linalg.norm(x) or 1) for x in (a, b))
    if len(a) % 2:
        a, b = np.append(a, 0), np.append(b, 0)
    (a_real, a_imaginary), (b_real, b_imaginary) = np.split(a, 2), np.split(b, 2)
    return np.abs(a @ b + a_imaginary @ b_real - a_real @ b_imaginary)


def angle(scores, columns, scale=20.0):
    """Values [B]; of more than two columns, the first is to be nearest to the second."""
    num_rows, num_columns, _ = columns.shape
    logits = scale * np.array(
        [angle_similarity(row[0], other) for row in columns for other in row[1:]]
    )
    if num_columns > 2:
        scores = [float(column == 1) for _ in columns for column in range(1, num_columns)]
    loss, shares = ranked_pairs(scores, logits)
    return num_rows * loss * shares.reshape(num_rows, -1).sum(axis=1)


def mse(teacher, embeddings):
    """Values [B] of rows or of columns; a teacher's row is every column's."""
    values = np.zeros(len(embeddings))
    for i, row in enumerate(embeddings):
        values[i] = np.mean([(u - t) ** 2 for u, t in zip(
            np.atleast_2d(row), np.broadcast_to(teacher[i], np.atleast_2d(row).shape),
            strict=True)])  # fmt: skip
    return values


def embed_distill(teacher, embeddings, distance_name):
    """Values [B] of columns."""
    return np.array([
        np.mean([distance(distance_name, u, t) for u, t in zip(row, targets, strict=True)])
        for row, targets in zip(embeddings, teacher, strict=True)
    ])  # fmt: skip


def margin_mse(targets, columns, similarity="dot"):
    """Values [B]; targets are margins, or as many scores as there are documents."""
    scores = -columns_distances(similarity, columns)
    values = np.zeros(len(columns))
    for i, (positive, *negatives) in enumerate(scores):
        target = np.atleast_1d(targets[i])
        if len(target) > len(negatives):
            target = target[0] - target[1:]
        errors = [positive - s - t for s, t in zip(negatives, target, strict=True)]
        values[i] = np.mean(np.square(errors))
    return values


def log_softmax(logits):
    """Logarithms of the softmax of one row."""
    return np.array(logits) - log_sum_exp(logits)


def distill_kl_div(teacher, columns, similarity="dot", temperature=1.0,
                   student_temperature=None, teacher_temperature=None):  # fmt: skip
    """Values [B]."""
    of_student = student_temperature or temperature
    of_teacher = teacher_temperature or temperature
    scores = -columns_distances(similarity, columns)
    values = np.zeros(len(columns))
    for i in range(len(columns)):
        p, q = log_softmax(teacher[i] / of_teacher), log_softmax(scores[i] / of_student)
        values[i] = of_student**2 * np.sum(np.exp(p) * (p - q))
    return values


def gist(guide, columns, temperature=0.01, margin_strategy="absolute", margin=0.0,
         contrast_anchors=True, contrast_positives=True, own_by_guide=False):  # fmt: skip
    """Values [B]. `own_by_guide`: whether the guide must say so for a row's anchor or
    positive not to be its own negative, as in the peer.
    """

    def cosine(x, i, j):  # of two (row, column)
        return similarity("cosine", x[i], x[j])

    values = np.zeros(len(columns))
    rows, num_columns = range(len(columns)), columns.shape[1]
    for i in rows:
        anchor, positive = (i, 0), (i, 1)
        own = cosine(guide, anchor, positive)
        threshold = own - margin * (abs(own) if margin_strategy == "relative" else 1)
        rivals = [(anchor, (j, c)) for c in range(1, num_columns) for j in rows]
        rivals += [(anchor, (j, 0)) for j in rows if contrast_anchors]
        rivals += [(positive, (j, 1)) for j in rows if contrast_positives]
        logits = [
            cosine(columns, *pair) / temperature
            for pair in rivals
            if pair != (anchor, positive)
            and (own_by_guide or pair[0] != pair[1])
            and not cosine(guide, *pair) > threshold
        ]
        logit = cosine(columns, anchor, positive) / temperature
        values[i] = log_sum_exp([logit, *logits]) - logit
    return values


def softmax(labels, logits, label_smoothing=0.0):
    """Values [B] of labels [B] or of probabilities [B, L]."""
    values = np.zeros(len(logits))
    for i, row in enumerate(logits):
        target = labels[i] if np.ndim(labels[i]) else np.arange(len(row)) == labels[i]
        target = (1 - label_smoothing) * target + label_smoothing / len(row)
        values[i] = -np.sum(target * log_softmax(row))
    return values


def with_margin(labels, cosines, margin):
    """The cosines with `margin(cosine)` for each row's own class."""
    cosines = cosines.copy()
    for i, label in enumerate(labels):
        cosines[i, label] = margin(cosines[i, label])
    return cosines


def global_orthogonal(_, x, mean_weight=1.0, second_moment_weight=1.0):
    """Values [B] of rows or of columns: each row's part of the square and the excess."""
    columns = x if x.ndim == 3 else x[:, None]
    num_rows, num_columns, dim = columns.shape
    values = np.zeros(num_rows)
    if num_rows < 2:
        return values
    for k in range(num_columns):
        cosines = 1 - distances("cosine", columns[:, k])
        others = [np.delete(cosines[i], i) for i in range(num_rows)]
        means = np.array([row.mean() for row in others])
        squares = np.array([(row**2).mean() for row in others])
        excess = squares - 1 / dim if squares.mean() > 1 / dim else 0 * squares
        values += mean_weight * means.mean() * means + second_moment_weight * excess
    return values / num_columns


def flops(_, x, threshold=None):
    """Values [B] of rows: each row's part of the squares."""
    rows = x.copy()
    if threshold is not None:
        rows[(rows != 0).sum(axis=1) <= threshold] = 0
    return rows @ rows.mean(axis=0)


def lp_regularization(_, x, p=2, power=1):
    """Values [B] of columns."""
    norms = [[np.sum(np.abs(v) ** p) ** (1 / p) for v in row] for row in x]
    return (np.array(norms) ** power).mean(axis=1)


def zero_mean_regularization(_, x):
    """Values [B] of rows."""
    return np.abs(x.sum(axis=1))


def self_supervised(oracle, columns):
    """Values [B], of a loss on labels: the mean over a row's views."""
    num_rows, num_views, dim = columns.shape
    ids = np.repeat(np.arange(num_rows), num_views)
    values = oracle(ids, columns.reshape([-1, dim]))
    return values.reshape([num_rows, num_views]).mean(axis=1)


def vic_reg(_, columns, invariance_weight=25.0, variance_weight=25.0,
            covariance_weight=1.0, eps=1e-4):  # fmt: skip
    """Values [B]."""
    penalty, dim = 0, columns.shape[2]
    for view in np.moveaxis(columns, 1, 0):
        covariance = (
            np.atleast_2d(np.cov(view.T)) if len(view) > 1 else np.zeros([dim, dim])
        )
        deviations = np.sqrt(np.diag(covariance) + eps)
        penalty += variance_weight / 2 * np.mean([max(0, 1 - s) for s in deviations])
        others = [covariance[d, e] for d in range(dim) for e in range(dim) if d != e]
        penalty += covariance_weight * np.sum(np.square(others)) / dim
    agreement = np.mean((columns[:, 0] - columns[:, 1]) ** 2, axis=1)
    return invariance_weight * agreement + penalty


def barlow_twins(_, columns, redundancy_weight=0.0051, eps=1e-5):
    """Values [B]."""
    views = columns - columns.mean(axis=0)
    first, second = np.moveaxis(views / np.sqrt(np.mean(views**2, axis=0) + eps), 1, 0)
    value = 0
    for d in range(columns.shape[2]):
        for e in range(columns.shape[2]):
            c = np.mean(first[:, d] * second[:, e])
            value += (1 - c) ** 2 if d == e else redundancy_weight * c**2
    return np.full(len(columns), value)


def sim_siam(_, columns, constant=None):
    """Values [B]."""
    targets = (columns if constant is None else constant)[:, 1]
    pairs = zip(columns[:, 0], targets, strict=True)
    return np.array([-similarity("cosine", p, t) for p, t in pairs])


def alignment(_, columns, power=2.0):
    """Values [B]."""
    return np.array([distance("normalized_euclidean", a, b) ** power for a, b in columns])


def uniformity(_, x, t=2.0):
    """Values [B]."""
    columns = x if x.ndim == 3 else x[:, None]
    values = []
    for view in np.moveaxis(columns, 1, 0):
        d = distances("normalized_euclidean", view)
        terms = [np.exp(-t * d[pair] ** 2) for pair in np.ndindex(*d.shape)
                 if pair[0] != pair[1]]  # fmt: skip
        values.append(np.log(np.mean(terms)) if terms else 0)
    return np.full(len(x), np.mean(values))


def weighted_sum(oracles, weights):
    """Values [B] of several oracles' sum."""
    return lambda y_true, x: sum(
        weight * oracle(y_true, x) for oracle, weight in zip(oracles, weights, strict=True)
    )


def arc_face(labels, cosines, margin=None, scale=64.0):
    """Values [B]; the margin None: 28.6 degrees."""
    margin = np.radians(28.6) if margin is None else margin

    def own(cosine):
        return arc_cosine(cosine, margin)

    return softmax(labels, scale * with_margin(labels, cosines, own))


def arc_cosine(cosine, margin):
    """ArcFace's cosine of the angle with a margin."""
    turned = np.arccos(np.clip(cosine, -1, 1)) + margin
    return np.cos(turned) if turned <= np.pi else cosine - margin * np.sin(margin)


def cos_face(labels, cosines, margin=0.35, scale=64.0):
    """Values [B]."""
    return softmax(labels, scale * with_margin(labels, cosines, lambda c: c - margin))


def normalized_softmax(labels, cosines, temperature=0.05):
    """Values [B]."""
    return softmax(labels, cosines / temperature)


def proxy_nca(labels, cosines, softmax_scale=1.0):
    """Values [B], on the squared distances of unit vectors."""
    return softmax(labels, -softmax_scale * (2 - 2 * cosines))


def proxy_anchor(labels, cosines, margin=0.1, alpha=32.0):
    """Values [B]: each class's terms, in shares of the rows' exponentials."""
    num_rows, num_classes = cosines.shape
    values = np.zeros(num_rows)
    for kind in ("pull", "push"):
        for c in range(num_classes):
            rows = [i for i in range(num_rows) if (labels[i] == c) == (kind == "pull")]
            if rows:
                number = len(set(labels)) if kind == "pull" else num_classes
                sign = -1 if kind == "pull" else 1
                t = alpha * (sign * cosines[rows, c] + margin)
                share = np.exp(log_softmax(t))
                values[rows] += num_rows * softplus(log_sum_exp(t)) * share / number
    return values


def p2s_grad(labels, cosines):
    """Values [B]."""
    values = np.zeros(len(cosines))
    for i, row in enumerate(cosines):
        values[i] = np.mean([(u - (c == labels[i])) ** 2 for c, u in enumerate(row)])
    return values


def falling_cosine(angle):
    """Of an angle above pi: down again, by 2 for each pi."""
    below = 0
    while angle > np.pi:
        angle, below = angle - np.pi, below + 2
    return np.cos(angle) - below


def combined_margin(labels, cosines, angle_factor=1.0, angle_margin=0.3,
                    cosine_margin=0.2, scale=64.0, label_smoothing=0.0):  # fmt: skip
    """Values [B]."""

    def own(cosine):
        angle = np.arccos(np.clip(cosine, -1, 1))
        return falling_cosine(angle_factor * angle + angle_margin) - cosine_margin

    logits = scale * with_margin(labels, cosines, own)
    return softmax(labels, logits, label_smoothing)


def curricular_face(labels, cosines, margin=0.5, scale=64.0, constant=None):
    """Values [B]; t is the mean of `constant`, by default the cosines, to the own class."""
    constant = cosines if constant is None else constant
    t = np.mean([constant[i, label] for i, label in enumerate(labels)])
    values = np.zeros(len(labels))
    for i, label in enumerate(labels):
        own = arc_cosine(cosines[i, label], margin)
        terms = [u if u <= own else u * (t + u) for u in cosines[i]]
        terms[label] = own
        values[i] = -log_softmax(scale * np.array(terms))[label]
    return values


def sphere_face(labels, scores, margin=4.0, scale=1.0):
    """Values [B], of cosines and lengths [B, 2, C]."""
    logits = scale * scores[:, 0] * scores[:, 1]
    for i, label in enumerate(labels):
        cosine, length = scores[i, :, label]
        angle = np.arccos(np.clip(cosine, -1, 1))
        logits[i, label] = scale * length * falling_cosine(margin * angle)
    return softmax(labels, logits)


def elastic_face(labels, cosines, margins, by_hardness=False, scale=64.0):
    """Values [B], by the margins of the rows, or the larger ones for smaller cosines."""
    margins = np.clip(margins, 0, np.pi)
    own = cosines[np.arange(len(labels)), labels]
    if by_hardness:
        easy_first = sorted(range(len(labels)), key=lambda i: -own[i])
        margins = dict(zip(easy_first, sorted(margins), strict=True))
    values = np.zeros(len(labels))
    for i, label in enumerate(labels):

        def turned(cosine, margin=margins[i]):
            return falling_cosine(np.arccos(np.clip(cosine, -1, 1)) + margin)

        row = with_margin([label], cosines[i : i + 1], turned)
        values[i] = softmax([label], scale * row)[0]
    return values


def ada_face(labels, scores, margin=0.4, concentration=0.333, scale=64.0, constant=None):
    """Values [B]; the qualities are of the lengths in `constant`, by default the scores."""
    lengths = (scores if constant is None else constant)[:, 1, 0]
    values = np.zeros(len(labels))
    for i, label in enumerate(labels):
        quality = (lengths[i] - lengths.mean()) / (lengths.std() + lengths.mean() / 1000)
        quality = np.clip(concentration * quality, -1, 1)

        def own(cosine, quality=quality):
            angle = np.arccos(np.clip(cosine, -1, 1)) - margin * quality
            return np.cos(np.clip(angle, 0, np.pi)) - margin * quality - margin

        cosines = with_margin([label], scores[i : i + 1, 0], own)
        values[i] = softmax([label], scale * cosines)[0]
    return values


def mag_face(labels, scores, min_margin=0.45, max_margin=0.8, min_length=10.0,
             max_length=110.0, length_weight=35.0, scale=64.0):  # fmt: skip
    """Values [B], of cosines and lengths [B, 2, C]."""
    values = np.zeros(len(labels))
    for i, label in enumerate(labels):
        length = np.clip(scores[i, 1, 0], min_length, max_length)
        part = (length - min_length) / (max_length - min_length)
        margin = (1 - part) * min_margin + part * max_margin

        def own(cosine, margin=margin):
            return falling_cosine(np.arccos(np.clip(cosine, -1, 1)) + margin)

        cosines = with_margin([label], scores[i : i + 1, 0], own)
        values[i] = softmax([label], scale * cosines)[0]
        values[i] += length_weight * (length / max_length**2 + 1 / length)
    return values


def clip(ids, columns, scale=1.0, exclude_equal_ids=False):
    """Values [B]."""
    a, b = columns[:, 0], columns[:, 1]
    values = np.zeros(len(a))
    for i in range(len(a)):
        rows = [j for j in range(len(a)) if j == i or not exclude_equal_ids
                or ids[j] != ids[i]]  # fmt: skip
        for logits in ([scale * a[i] @ b[j] for j in rows],
                       [scale * a[j] @ b[i] for j in rows]):  # fmt: skip
            values[i] -= log_softmax(logits)[rows.index(i)] / 2
    return values


def sig_lip(ids, columns, scale=1.0, bias=0.0, exclude_equal_ids=False):
    """Values [B]."""
    a, b = columns[:, 0], columns[:, 1]
    values = np.zeros(len(a))
    for i in range(len(a)):
        for j in range(len(a)):
            if j == i or may_be_negative(ids if exclude_equal_ids else None, i, j):
                z = 1 if j == i else -1
                values[i] += softplus(-z * (scale * a[i] @ b[j] + bias))
    return values


def matryoshka(oracle, dims, weights=None):
    """The oracle's `(y_true, y_pred) -> values [B]` over the first dimensions, added up."""

    def values(y_true, y_pred):
        parts = []
        for d in dims:
            x = y_pred[..., :d]
            lengths = np.linalg.norm(x, axis=-1, keepdims=True)
            parts.append(oracle(y_true, x / np.where(lengths == 0, 1, lengths)))
        return np.sum([w * part for w, part in zip(weights or [1] * len(dims), parts,
                                                   strict=True)], axis=0)  # fmt: skip

    return values


def contrastive_tension(labels, columns):
    """Values [B]: each row's term times the number of rows."""
    values = []
    for y, (u, v) in zip(labels, columns, strict=True):
        p = 1 / (1 + np.exp(-np.dot(u, v)))
        values.append(-y * np.log(p) - (1 - y) * np.log(1 - p))
    return len(values) * np.array(values)


def denoising_auto_encoder(tokens, logits, padding=0):
    """Values [B]; their mean is the mean over all tokens."""
    num_tokens, sums = 0, np.zeros(len(tokens))
    for i, text in enumerate(tokens):
        for t, token in enumerate(text):
            if token != padding:
                num_tokens += 1
                p = np.exp(logits[i, t]) / np.exp(logits[i, t]).sum()
                sums[i] -= np.log(p[token])
    return sums * len(tokens) / max(num_tokens, 1)


def adaptive_layer(oracle, y_true, layers, last_layer_weight=1.0, prior_layers_weight=1.0,
                   kl_div_weight=1.0, kl_temperature=0.3, layer_weighting="uniform",
                   constant=None):  # fmt: skip
    """Values [B] of columns `[B, n, L + 1, D]`, with every layer before the last."""
    constant = layers if constant is None else constant
    num_prior = layers.shape[2] - 1
    values = last_layer_weight * oracle(y_true, layers[:, :, -1])
    for i in range(num_prior):
        weight = {"uniform": 1, "linear": 1 / (1 + i), "log": 1 / (1 + np.log(1 + i))}
        part = prior_layers_weight * weight[layer_weighting] / num_prior
        values = values + part * oracle(y_true, layers[:, :, i])
        for row in range(len(layers)):
            for column in range(layers.shape[1]):
                log_p = log_softmax(constant[row, column, -1] / kl_temperature)
                log_q = log_softmax(layers[row, column, i] / kl_temperature)
                divergence = np.sum(np.exp(log_p) * (log_p - log_q)) / layers.shape[1]
                values[row] += kl_div_weight * kl_temperature * divergence
    return values


def _lists(labels, scores):
    """For each list the labels and scores of its documents, where a label is no NaN."""
    for of_labels, of_scores in zip(labels, scores, strict=True):
        there = ~np.isnan(of_labels)
        yield of_labels[there], of_scores[there]


def _mean_of_all(terms, counts):
    """Values [B] whose mean is the sum of all terms divided by that of all counts."""
    return np.array(terms) * len(terms) / max(sum(counts), 1)


def list_net(labels, scores):
    """Values [B]; their mean is the mean over lists that are not empty."""
    terms, counts = [], []
    for y, s in _lists(labels, scores):
        p, q = np.exp(y) / np.exp(y).sum(), np.exp(s) / np.exp(s).sum()
        terms.append(-np.sum(p * np.log(q)))
        counts.append(len(y) > 0)
    return _mean_of_all(terms, counts)


def list_mle(labels, scores, respect_input_order=True, position_aware=False):
    """Values [B]; their mean is the mean over lists that are not empty."""
    terms, counts = [], []
    for y, s in _lists(labels, scores):
        n = len(y)
        if not respect_input_order:
            s = s[sorted(range(n), key=lambda i: -y[i])]
        weights = [2.0 ** (n - k) - 1 for k in range(1, n + 1)] if position_aware else []
        value = 0.0
        for k in range(n):
            log_p = s[k] - np.log(sum(np.exp(s[k:])))
            value -= log_p * (weights[k] / max(sum(weights), 1) if position_aware else 1)
        terms.append(value)
        counts.append(n > 0)
    return _mean_of_all(terms, counts)


def lambda_loss(labels, scores, weighting_scheme="ndcg_loss2++", k=None, sigma=1.0,
                mu=10.0, reduction_log="binary"):  # fmt: skip
    """Values [B]; their mean is the mean over all pairs that count."""
    log = np.log2 if reduction_log == "binary" else np.log
    discount = lambda place: np.log2(1 + place)  # noqa: E731
    terms, counts = [], []
    for y, s in _lists(labels, scores):
        n = len(y)
        place = {i: 1 + r for r, i in enumerate(sorted(range(n), key=lambda i: -s[i]))}
        best = sorted(np.maximum(y, 0), reverse=True)[:k]
        ideal = sum((2**grade - 1) / discount(1 + r) for r, grade in enumerate(best))
        gain = (2 ** np.maximum(y, 0) - 1) / (ideal or 1)
        value, count = 0.0, 0
        for i in range(n):
            for j in range(n):
                if k is not None and place[i] > k and place[j] > k:
                    continue
                if weighting_scheme != "ndcg_loss1" and y[i] <= y[j]:
                    continue
                distance = abs(place[i] - place[j])
                delta = abs(1 / discount(distance) - 1 / discount(distance + 1)) \
                    if distance else 0.0  # fmt: skip
                rho = abs(1 / discount(place[i]) - 1 / discount(place[j]))
                weight = {
                    "ndcg_loss1": gain[i] / discount(place[i]),
                    "ndcg_loss2": delta * abs(gain[i] - gain[j]),
                    "lambda_rank": rho * abs(gain[i] - gain[j]),
                    "ndcg_loss2++": (mu * delta + rho) * abs(gain[i] - gain[j]),
                    None: 1.0,
                }[weighting_scheme]
                value += weight * log(1 + np.exp(-sigma * (s[i] - s[j])))
                count += 1
        terms.append(value)
        counts.append(count)
    return _mean_of_all(terms, counts)


def adr_mse(labels, scores, alpha=1.0):
    """Values [B]; their mean is the mean over all documents."""
    terms, counts = [], []
    for y, s in _lists(labels, scores):
        value = 0.0
        for j in range(len(y)):
            place = 1 + sum(
                1 / (1 + np.exp(-alpha * (s[i] - s[j]))) for i in range(len(y)) if i != j
            )
            equal = [1 + r for r, x in enumerate(sorted(y, reverse=True)) if x == y[j]]
            right = np.mean(equal)
            value += (right - place) ** 2 / np.log2(1 + right)
        terms.append(value)
        counts.append(len(y))
    return _mean_of_all(terms, counts)


def surprise_of_first(_, scores, scale=10.0, activation="sigmoid"):
    """Values [B]: what the first of a list's scores lacks to a probability of 1."""
    values = []
    for s in scores:
        s = scale * (1 / (1 + np.exp(-s)) if activation == "sigmoid" else s)
        values.append(np.log(sum(np.exp(s))) - s[0])
    return np.array(values)
