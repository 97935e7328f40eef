"""Hard negatives that are mined anew during training, with the model as it is then."""

import itertools
import random

import keras
import numpy as np
import tensorflow as tf

from tfembloss.callbacks.running_fit import variables_of_fit
from tfembloss.checks import flag, integer
from tfembloss.data.batches import slices
from tfembloss.synthesis.hard_negatives import MiningTask
from tfembloss.synthesis.scoring import embedders
from tfembloss.synthesis.selection import generator

_ORDER, _SAMPLE, _OTHERS = range(3)  # what is random in an epoch


class HardNegativeMining(keras.callbacks.Callback):
    """Mines hard negatives with the model in training, and gives them to `fit`.

    At the beginning of an epoch, `mine_hard_negatives` looks for the texts of the corpus
    that the model, as it is then, takes for answers of the queries; the epoch trains with
    them, and so do the following ones until the negatives are mined anew. `batches` is the
    dataset: its rows are always the same pairs of a query and a positive, in an order that
    is resampled in each epoch, with `num_negatives` columns of negatives.

    The first epoch has negatives of the model as it is before training: for a pretrained
    one. The nearest texts of a model that knows nothing are of little use: let it begin
    with random texts of the corpus, in each epoch others, for `warmup_epochs`.

    A query for which fewer texts remain, because of a margin for example, has random texts
    of the corpus in place of the missing ones, so that each epoch trains all pairs, in
    batches of equal numbers of columns. They are never its own text or one of its
    positives, and repeat only if the corpus has too few.

    In a `MultiTaskModel` they may be the batches of a task; the mixture then says how many
    an epoch has, and the model mines by its `predict`.

    A `ResumableCheckpoint` saves the negatives, and training resumes exactly.

    Args:
        queries, corpus, positives: as in `tfembloss.synthesis.mine_hard_negatives`: texts,
            texts that become negatives, and for each query its positive text or several.
        frequency: the number of epochs from one mining to the next, >= 1.
        warmup_epochs: the number of epochs with random negatives before the first mining,
            >= 0.
        num_negatives: columns of negatives, >= 1.
        range_min, range_max, min_score, max_score, absolute_margin, relative_margin: which
            candidates are negatives, as in `mine_hard_negatives`: a margin leaves out texts
            that may be positives without a label.
        sampling: `"top"` or `"random"`, among the candidates, as in `mine_hard_negatives`.
        seed: an integer >= 0 that determines the order of the pairs and all that is random,
            by the number of the epoch. By default it comes from Python's random generator,
            which `keras.utils.set_random_seed` seeds. With several workers pass one, so
            that all of them sample the same epochs.
        cross_encoder: function or model that scores the candidates, as in
            `mine_hard_negatives`; None for the model in training.
        distance: a distance of `tfembloss.distances`, by which texts are near.
        batch_size: number of texts that are embedded at a time, > 0.
        verbose: 1 for progress bars and a summary of each mining, 0 for none.

    Raises:
        ValueError: an argument is invalid, a query has no text in the corpus besides itself
            and its positives; in `fit`, the model does not take texts, or it was given
            other batches.

    Example:

    >>> import tfembloss
    >>> questions = ["how far is the moon?", "what do cats eat?", "who wrote hamlet?"]
    >>> answers = ["the moon is far away", "cats eat mice", "shakespeare wrote hamlet"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(questions + answers, size=100)
    >>> model = tfembloss.EmbeddingModel(
    ...     tfembloss.text.TextEncoder(len(vocabulary), dim=8),
    ...     tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    >>> mining = HardNegativeMining(questions, answers, answers, frequency=2, verbose=0)
    >>> batches = mining.batches(batch_size=3)
    >>> history = model.fit(batches, epochs=4, callbacks=[mining], verbose=0)
    >>> for ((query, positive, negative),) in batches.take(1):
    ...     print(query.shape, (positive == negative).numpy().any())
    (3,) False

    Reference:
        Xiong et al., "Approximate Nearest Neighbor Negative Contrastive Learning for Dense
        Text Retrieval", 2021, https://arxiv.org/abs/2007.00808, which mines during
        training, in another process

    Relations:
        sentence-transformers mines before training only, and leaves out the pairs with
        fewer negatives. `keras.callbacks.BackupAndRestore` does not save the negatives:
        with it, training resumes exactly if `frequency` is 1.
    """

    def __init__(
        self,
        queries,
        corpus,
        positives,
        frequency=1,
        warmup_epochs=0,
        num_negatives=1,
        range_min=0,
        range_max=None,
        min_score=None,
        max_score=None,
        absolute_margin=None,
        relative_margin=None,
        sampling="top",
        seed=None,
        cross_encoder=None,
        distance="cosine",
        batch_size=256,
        verbose=1,
    ):
        super().__init__()
        self.frequency = integer("frequency", frequency, 1)
        self.warmup_epochs = integer("warmup_epochs", warmup_epochs, 0)
        self.seed = random.getrandbits(64) if seed is None else integer("seed", seed, 0)
        self._is_random = generator(sampling, self.seed) is not None
        self._task = task = MiningTask(
            queries,
            corpus,
            positives,
            num_negatives=num_negatives,
            range_min=range_min,
            range_max=range_max,
            min_score=min_score,
            max_score=max_score,
            absolute_margin=absolute_margin,
            relative_margin=relative_margin,
            is_random=self._is_random,
            cross_encoder=cross_encoder,
            distance=distance,
            batch_size=batch_size,
        )
        _check_others_exist(task)
        self.verbose = verbose
        self._query_of_pair = np.repeat(
            np.arange(len(task.queries)), list(map(len, task.positives))
        )
        self._row_of = {text: row for row, text in enumerate(task.corpus)}
        # Of the epochs until the next mining; -1 before the first one. A
        # ResumableCheckpoint saves and restores these.
        shape = len(self._query_of_pair), task.num_negatives
        self._negatives = _variable("negatives", np.zeros(shape))
        self._chosen_in = _variable("chosen_in", -1)
        self.variables = [self._negatives, self._chosen_in]
        self._epoch, self._epochs_read = 0, set()

    def batches(self, batch_size=32, drop_remainder=False, shuffle=True):
        """Returns the dataset for `fit`, with this callback in its `callbacks`.

        Args:
            batch_size: rows in a batch, > 0.
            drop_remainder: whether to leave out the last batch if it is smaller, for static
                shapes.
            shuffle: whether the order of the pairs is resampled in each epoch.

        Returns:
            A `tf.data.Dataset` of batches `((query, positive, negative, ...),)`, of known
            length. It is to be iterated over once in each epoch of `fit`; after that, it
            has the negatives of the last epoch.
        """
        batch_size = integer("batch_size", batch_size, 1)
        flag("drop_remainder", drop_remainder)
        flag("shuffle", shuffle)
        task = self._task
        with tf.device("CPU"):  # where tf.data gathers them
            queries = tf.constant([task.queries[query] for query in self._query_of_pair])
            positives = tf.constant(list(itertools.chain(*task.positives)))
            corpus = tf.constant(task.corpus)
        num_pairs = len(self._query_of_pair)
        rows = slices(lambda: self._rows(shuffle), [num_pairs, 1 + task.num_negatives])

        def texts(rows):
            pairs, *negatives = tf.unstack(rows, axis=1)
            columns = tf.gather(queries, pairs), tf.gather(positives, pairs)
            return ((*columns, *(tf.gather(corpus, rows) for rows in negatives)),)

        return rows.batch(batch_size, drop_remainder).map(texts).prefetch(tf.data.AUTOTUNE)

    def set_model(self, model):
        """Sets the model, at the start of `fit`, which mines anew."""
        super().set_model(model)
        # Before any callback's `on_train_begin`, where a checkpoint restores the variables.
        self._chosen_in.assign(-1)
        self._epoch, self._epochs_read = 0, set()

    def on_train_begin(self, logs=None):
        """Checks that each epoch begins with the first batch."""
        steps = variables_of_fit(self)["epoch_iterator"].steps_per_epoch
        if steps is not None:
            raise ValueError(
                "Expected epochs of all batches(), as negatives are mined for whole ones. "
                f"Received: steps_per_epoch={steps}. Leave it out."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Mines negatives for this epoch and the following ones, if it is time."""
        last = int(self._chosen_in.numpy())
        if last < self.warmup_epochs or epoch >= last + self.frequency:
            self._negatives.assign(self._choose(epoch))
            self._chosen_in.assign(epoch)
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Checks that the epoch's batches are those of this callback."""
        if not hasattr(self.model, "tasks"):  # of which another's may come first
            self.on_epoch_end(self._epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Checks the same at the end, when all tasks of a MultiTaskModel had batches."""
        if self._epoch not in self._epochs_read:
            raise ValueError(
                "Expected `fit` to iterate over batches() of this HardNegativeMining in "
                "each epoch: pass them as x, without cache(). Received: other batches in "
                f"epoch {self._epoch}, counted from 0."
            )

    def _rows(self, shuffle):
        """Returns for each pair, in this epoch's order, its row and those of negatives."""
        if int(self._chosen_in.numpy()) < 0:
            raise ValueError(
                "Expected the HardNegativeMining whose batches() these are in `fit`'s "
                "callbacks: it mines their negatives. Received: batches read without it. "
                "Pass fit(mining.batches(32), callbacks=[mining])."
            )
        self._epochs_read.add(self._epoch)
        pairs = np.arange(len(self._query_of_pair))
        if shuffle:
            self._rng(self._epoch, _ORDER).shuffle(pairs)
        return np.column_stack([pairs, self._negatives.numpy()[pairs]]).astype("int64")

    def _choose(self, epoch):
        """Returns rows of the corpus `[pairs, num_negatives]`."""
        mined = itertools.repeat([])
        if epoch >= self.warmup_epochs:
            if self.verbose:
                print(f"Mining hard negatives for epoch {epoch + 1}", flush=True)
            both = embedders(self.model, self._task.batch_size, "model")
            rng = self._rng(epoch, _SAMPLE) if self._is_random else None
            mined = self._task.mine(both, rng, self.verbose).negatives
        rng = self._rng(epoch, _OTHERS)
        return [
            self._filled([self._row_of[text] for text in texts], query, rng)
            for query, texts in zip(self._query_of_pair, mined, strict=False)
        ]

    def _filled(self, rows, query, rng):
        """Returns a query's negatives, with random ones in place of those missing."""
        num_missing = self._task.num_negatives - len(rows)
        known = {*self._task.known[query]}
        others = {*known, *rows}
        if len(self._row_of) - len(others) < num_missing:
            others = known  # there are too few: they repeat
        while len(rows) < self._task.num_negatives:
            row = int(rng.integers(len(self._row_of)))
            if row not in others:
                rows.append(row)
                if others is not known:
                    others.add(row)
        return rows

    def _rng(self, epoch, use):
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, use))
        return np.random.default_rng(sequence)


def _variable(name, value):
    return keras.Variable(value, dtype="int32", trainable=False, name=name)


def _check_others_exist(task):
    for query, known in zip(task.queries, task.known, strict=True):
        if len(known) == len(task.corpus):
            raise ValueError(
                "Expected for each query a text of the corpus besides its own and its "
                f"positives, to be a negative. Received: none for {query!r:.80}, in a "
                f"corpus of {len(task.corpus)}."
            )
