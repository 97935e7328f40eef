"""Lets the package mteb run its benchmarks on a model."""

import numpy as np

from tfembloss import distances
from tfembloss.checks import shown
from tfembloss.evaluation.evaluator import Evaluator


class MTEBEncoder:
    """A model as the package `mteb` calls it, to run mteb's benchmarks on it.

    `pip install mteb` beside `tfembloss`; it brings torch.

    Args:
        model: an `EmbeddingModel`, or another model of texts whose `predict` makes
            embeddings; of a `DualEncoder` two towers are used, as by an `Evaluator`. If the
            model has prompts `"query"` and `"document"`, they are put before the texts that
            mteb calls so.
        name: the model's name in mteb's results, `"organization/name"`.
        revision: its version in mteb's results. mteb keeps results by name and revision and
            does not measure these again, so use a new revision after more training.
        distance: the distance that compares embeddings, see `tfembloss.distances`.
        batch_size: rows that are embedded at a time; None for what mteb asks for.
        towers: see `Evaluator`.

    Raises:
        ValueError: an argument is invalid.

    Example:

    ```python
    import mteb

    encoder = tfembloss.evaluation.MTEBEncoder(model, "me/my-model", revision="epoch-3")
    results = mteb.evaluate(encoder, mteb.get_tasks(["NanoSciFactRetrieval"]))
    print(results.to_dataframe())
    ```

    Reference:
        Muennighoff et al., "MTEB: Massive Text Embedding Benchmark", 2023,
        https://arxiv.org/abs/2210.07316

    Relations:
        Written for mteb 2, whose `encode` is given batches; lists of texts, as in mteb 1,
        are accepted too. `read_beir` reads one retrieval set without mteb.
    """

    def __init__(
        self, model, name, revision, distance="cosine", batch_size=None, towers=None
    ):
        if not callable(getattr(model, "predict", None)):
            raise ValueError(
                "Expected a model with `predict`, such as an EmbeddingModel. Received: "
                f"{shown(model)}"
            )
        is_name = isinstance(name, str) and name.count("/") == 1 and all(name.split("/"))
        if not is_name:
            raise ValueError(
                f"Expected name as 'organization/name'. Received: name={shown(name)}"
            )
        if not (isinstance(revision, str) and revision):
            raise ValueError(
                "Expected revision as a text, such as 'epoch-3': mteb returns old results "
                f"for one that it has measured. Received: revision={shown(revision)}"
            )
        self.model, self.name, self.revision = model, name, revision
        self.distance, self._compare = distance, distances.get(distance)
        self.batch_size, self.towers = batch_size, towers
        self._reader(1 if batch_size is None else batch_size)  # which checks them

    def _reader(self, batch_size):
        return Evaluator(batch_size=batch_size, towers=self.towers)

    def encode(self, inputs, *, prompt_type=None, batch_size=32, **_):
        """Returns embeddings `[N, D]` of batches that have texts, or of a list of texts."""
        texts = []
        for batch in inputs:
            if not isinstance(batch, str) and "text" not in batch:
                raise ValueError(
                    "Expected batches of texts. Received: one of "
                    f"{', '.join(batch)}. MTEBEncoder is for tasks of texts."
                )
            texts.extend([batch] if isinstance(batch, str) else batch["text"])
        role = getattr(prompt_type, "value", prompt_type)
        role = "document" if role == "passage" else role  # its name in mteb 1
        reader = self._reader(self.batch_size or batch_size)
        return reader.embeddings(self.model, texts, "texts", role)

    def similarity(self, embeddings1, embeddings2):
        """Returns similarities `[N, M]` of all pairs of rows, as a tensor of torch."""
        return self._similar(self._compare.pairwise, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1, embeddings2):
        """Returns similarities `[N]`, row by row, as a tensor of torch."""
        return self._similar(self._compare.rowwise, embeddings1, embeddings2)

    def _similar(self, function, *embeddings):
        import torch  # mteb needs it, and tensors of it here

        rows = [np.atleast_2d(np.asarray(x, "float32")) for x in embeddings]
        found = np.array(function(*rows), "float32")
        return torch.from_numpy(1 - found if self.distance == "cosine" else -found)

    @property
    def mteb_model_meta(self):
        """The name, the revision and the similarity, for mteb's results."""
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        known = {function.value: function for function in ScoringFunction}
        return ModelMeta.create_empty({
            "name": self.name,
            "revision": self.revision,
            "framework": ["TensorFlow"],
            "similarity_fn_name": known.get(self.distance),
        })  # fmt: skip
