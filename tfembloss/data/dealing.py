"""Which rows go into which batch of an epoch: numbers only."""

import collections
import itertools

import numpy as np

# Balanced batches.


def fill(groups, num_batches, classes_per_batch, rng):
    """Adds groups, evenly, until they fill the batches; at most one per class and batch."""
    groups = groups.copy()
    while missing := num_batches * classes_per_batch - groups.sum():
        (has_room,) = np.nonzero(groups < num_batches)
        chosen = rng.permutation(has_room)[:missing]
        more = max(1, missing // len(has_room))
        groups[chosen] = np.minimum(groups[chosen] + more, num_batches)
    return groups


def balanced_epoch(classes, groups, classes_per_batch, items_per_class, rng):
    """Returns the row numbers `[T, P K]` of an epoch's batches."""
    class_of, group = _deal(groups, classes_per_batch, rng)  # [T, P]
    shuffled = rng.permutation(len(classes))
    members = shuffled[np.argsort(classes[shuffled], kind="stable")]  # class by class
    sizes = np.bincount(classes)
    first = np.cumsum(sizes) - sizes

    # A class has g K places for its n items: place i takes item floor(i n / (g K)), so all
    # are used, equally often. The places of a group are g apart, so its items are n / K
    # apart.
    n, g = sizes[class_of][..., None], groups[class_of][..., None]  # [T, P, 1]
    places = np.arange(items_per_class) * g + group[..., None]  # [T, P, K]
    rows = members[first[class_of][..., None] + places * n // (g * items_per_class)]
    return rows.reshape(len(rows), -1)


def _deal(groups, classes_per_batch, rng):
    """Returns the class and the group for each place `[T, P]` of an epoch.

    All groups, class by class, are laid out in P lanes of T, and each lane is shuffled.
    A class of at most T groups lies in one lane, or at the end of one and the beginning
    of the next: there its groups go to batches that do not have it from the lane before.
    """
    order = rng.permutation(len(groups))
    class_of = np.repeat(order, groups[order])
    first = np.cumsum(groups[order]) - groups[order]
    group = np.arange(len(class_of)) - np.repeat(first, groups[order])
    lanes = np.stack([class_of, group]).reshape(2, classes_per_batch, -1)
    for lane in range(classes_per_batch):
        batches = rng.permutation(lanes.shape[2])  # where the lane's groups go
        if lane:
            head = lanes[0, lane, 0]
            taken = lanes[0, lane - 1, batches] == head
            batches = np.concatenate([batches[~taken], batches[taken]])
            size = np.sum(lanes[0, lane] == head)
            batches[size:] = rng.permutation(batches[size:])
        lanes[:, lane, batches] = lanes[:, lane].copy()
    return lanes.transpose(0, 2, 1)


# Batches without duplicates.


class WithoutDuplicates:
    """Epochs of batches in which no text occurs twice, with equally many batches each.

    An epoch has the N / B batches of B rows that tf.data makes of N rows, the last one
    with the remainder, if every row fits into them. Otherwise it has as many full batches
    as possible (if there are fewer than B rows, one batch as large as possible), and the
    other rows are left out, or go into smaller batches.

    Args:
        texts: for each row a tuple of the numbers of its texts that also occur elsewhere.
        batch_size: B.
        keep_remainder: whether a smaller last batch is kept.
        keep_small: whether the rows that do not fit go into smaller batches.
        rng: the random generator of the first epoch.
    """

    def __init__(self, texts, batch_size, keep_remainder, keep_small, rng):
        self.texts, self.batch_size = texts, batch_size
        self.keep_remainder, self.keep_small = keep_remainder, keep_small
        self.unrepeated = np.array([not of_row for of_row in texts])
        self.num_full, rest = divmod(len(texts), batch_size)
        self.has_remainder = keep_remainder and rest > 0
        self.all_fit = True
        self.first = self._tries(rng)
        if self.first is None:
            self.all_fit = self.has_remainder = False
            self._find_num_full(rng)
        self.num_rows = sum(map(len, self.first))  # in an epoch

    def epoch(self, rng):
        """Returns lists of row numbers, the same number of lists in each epoch."""
        batches = self._tries(rng)
        if batches is not None and len(batches) == len(self.first):
            return batches
        # A hard case, in which random trials do not fit every row: the batches of the
        # first epoch, in which rows without repeated texts change places.
        rows = np.arange(len(self.texts))
        rows[self.unrepeated] = rng.permutation(rows[self.unrepeated])
        last = len(self.first) - self.has_remainder
        order = [*rng.permutation(last), *range(last, len(self.first))]
        return [rows[self.first[i]] for i in order]

    def _tries(self, rng):
        for _ in range(3):
            batches = self._deal(rng)
            if batches is not None:
                return batches
        return None

    def _deal(self, rng):
        """Returns the batches of one epoch, or None if a batch that must be full is not."""
        if not self.num_full and not self.has_remainder:
            is_one = self.keep_remainder and len(self.texts) < self.batch_size
            if is_one and not self.keep_small:
                return self._one_batch(rng)
            return self._small_batches(np.arange(len(self.texts)), rng)
        # The rows left out are sampled from all rows too, so they have their own places.
        spare = len(self.texts) - self.num_full * self.batch_size
        if not self.has_remainder:
            spare -= len(self.texts) - _num_placed(self.texts, self.num_full)
        sizes = [self.batch_size] * self.num_full + [
            max(0, min(spare, self.batch_size - 1))
        ]
        *full, left, unplaced = split(spread(self.texts, sizes, rng), len(sizes), rng)
        if any(len(rows) < self.batch_size for rows in full):
            return None
        if self.has_remainder:
            return None if len(unplaced) else [*full, left]
        if self.all_fit:
            return full
        return [*full, *self._small_batches(np.concatenate([left, unplaced]), rng)]

    def _small_batches(self, rows, rng):
        batches = []
        while self.keep_small and len(rows):
            texts = [self.texts[row] for row in rows]
            most = max(_counts(texts).values(), default=1)
            number = max(most, -(-len(rows) // self.batch_size))
            sizes = [self.batch_size] * number
            *placed, unplaced = split(spread(texts, sizes, rng), number, rng)
            batches += [rows[chosen] for chosen in placed if len(chosen)]
            rows = rows[unplaced]
        return batches

    def _find_num_full(self, rng):
        """Finds the largest number of full batches, and the first epoch, which has them."""
        size = self.batch_size
        while size * self.num_full > (n := _num_placed(self.texts, self.num_full)):
            self.num_full = n // size
        while (batches := self._deal(rng)) is None:
            placed = spread(self.texts, [size] * self.num_full, rng)
            self.num_full = min(self.num_full - 1, np.sum(placed >= 0) // size)
        self.first = batches

    def _one_batch(self, rng):
        """Returns what fits into one batch, if there are fewer rows than its size."""
        batch, _ = split(spread(self.texts, [self.batch_size], rng), 1, rng)
        return [batch] if len(batch) > 1 else []


def spread(texts, sizes, rng):
    """Returns the batch of each row `[N]`, -1 for none, without duplicates in a batch.

    Rows with the most frequent texts come first. A row goes to the batch with the most room
    among those without its texts. If no row has two repeated texts, this fills the batches
    whenever they can be filled (Gale and Ryser); otherwise it comes close.
    """
    counts = _counts(texts)
    rank = dict(zip(counts, rng.permutation(len(counts)).tolist(), strict=True))
    shuffled = rng.permutation(len(texts)).tolist()
    order = [(max(texts[row], key=counts.get), row) for row in shuffled if texts[row]]
    order.sort(key=lambda item: (-counts[item[0]], rank[item[0]]))
    room = np.asarray(sizes) + rng.random(len(sizes))  # breaks ties at random
    batches_of = collections.defaultdict(list)
    batch_of = np.full(len(texts), -1)
    for first, rows in itertools.groupby(order, key=lambda item: item[0]):
        open_room = room.copy()
        open_room[batches_of[first]] = 0
        for _, row in rows:
            taken = [b for text in texts[row] if text != first for b in batches_of[text]]
            saved = open_room[taken]
            open_room[taken] = 0
            batch = int(open_room.argmax())
            fits = open_room[batch] >= 1
            open_room[taken] = saved
            if fits:
                open_room[batch] = 0
                room[batch] -= 1
                batch_of[row] = batch
                for text in texts[row]:
                    batches_of[text].append(batch)
    # Rows without repeated texts fill the open places, full batches before a remainder.
    free = [row for row in shuffled if not texts[row]]
    open_places = np.repeat(np.arange(len(sizes)), room.astype(int))[: len(free)]
    batch_of[free[: len(open_places)]] = open_places
    return batch_of


def split(batch_of, number, rng):
    """Returns the rows of each of `number` batches, in random order, and those of none."""
    shuffled = rng.permutation(len(batch_of))
    of_shuffled = np.where(batch_of < 0, number, batch_of)[shuffled]
    order = np.argsort(of_shuffled, kind="stable")
    ends = np.searchsorted(of_shuffled[order], np.arange(1, number + 1))
    return np.split(shuffled[order], ends)


def _counts(texts):
    return collections.Counter(text for of_row in texts for text in of_row)


def _num_placed(texts, num_batches):
    """Returns a bound for the rows in that many batches: a text has one place in each."""
    counts = _counts(texts)
    most_frequent = collections.Counter(max(t, key=counts.get) for t in texts if t)
    num_free = sum(not of_row for of_row in texts)
    return num_free + sum(min(count, num_batches) for count in most_frequent.values())
