"""The losses of the PyTorch libraries, for `harness.Loss`.

Each function gives a maker: `(*weights) -> (function, parameters)`. The function takes the
targets and a list of columns `[B, D]`; the parameters are those the loss owns.
"""

import numpy as np
from harness import DIM


def sentence_transformers(name, **options):
    """A loss of sentence-transformers that takes embeddings."""

    def make():
        from sentence_transformers.sentence_transformer import losses

        loss = getattr(losses, name)(model=None, **options)
        return lambda y, columns: loss.compute_loss_from_embeddings(columns, y), []

    return make


class Given:
    """Stands for a model: its embeddings are what the features have under a key."""

    device, max_seq_length = "cpu", 1

    def __init__(self, key="sentence_embedding", tokenizer=None):
        self.key, self.tokenizer = key, tokenizer

    def __call__(self, features):
        return self.forward(features)

    def forward(self, features):
        """The embeddings."""
        return {"sentence_embedding": features[self.key]}

    def get_embedding_dimension(self):
        """Number of dimensions."""
        return DIM


def _features(columns):
    return [{"sentence_embedding": x} for x in columns]


def teacher_mse():
    """sentence-transformers' MSELoss, whose targets are the teacher's embeddings."""

    def make():
        from sentence_transformers.sentence_transformer import losses

        loss = losses.MSELoss(model=None)
        return lambda y, columns: loss.compute_loss_from_embeddings(columns, [y]), []

    return make


def pair_softmax():
    """sentence-transformers' SoftmaxLoss, with these weights."""

    def make(kernel, bias):
        import torch
        from sentence_transformers.sentence_transformer import losses

        loss = losses.SoftmaxLoss(Given(), DIM, num_labels=len(bias))
        loss.classifier.weight.data = torch.from_numpy(kernel.T.copy())
        loss.classifier.bias.data = torch.from_numpy(bias)
        return lambda y, columns: loss(_features(columns), y), list(loss.parameters())

    return make


def matryoshka_ranking(dims):
    """sentence-transformers' MatryoshkaLoss of MultipleNegativesRankingLoss."""

    def make():
        from sentence_transformers.sentence_transformer import losses

        model = Given()
        loss = losses.MultipleNegativesRankingLoss(model)
        loss = losses.MatryoshkaLoss(model, loss, dims)
        return lambda y, columns: loss(_features(columns), y), []

    return make


def gist_embed():
    """sentence-transformers' GISTEmbedLoss; the targets are the guide's `[B, n, D]`."""

    def make():
        from sentence_transformers.sentence_transformer import losses
        from transformers import PreTrainedTokenizerBase

        class Tokenizer(PreTrainedTokenizerBase):
            def __init__(self):
                pass

            def get_vocab(self):
                return {}

        tokenizer = Tokenizer()
        loss = losses.GISTEmbedLoss(Given(tokenizer=tokenizer), Given("guide", tokenizer))

        def function(guides, columns):
            features = _features(columns)
            for column, guide in zip(features, guides.unbind(1), strict=True):
                column["guide"] = guide
            return loss(features, None)

        return function, []

    return make


def cached_ranking(mini_batch_size=32):
    """What CachedMultipleNegativesRankingLoss makes of embeddings in mini-batches."""

    def make():
        import torch
        from sentence_transformers.sentence_transformer import losses

        loss = losses.CachedMultipleNegativesRankingLoss(
            model=[None], mini_batch_size=mini_batch_size
        )

        class Cached(torch.autograd.Function):
            @staticmethod
            def forward(context, *columns):
                parts = [
                    [part.detach().requires_grad_() for part in x.split(mini_batch_size)]
                    for x in columns
                ]
                with torch.enable_grad():
                    value = loss.calculate_loss(parts, with_backward=True)
                gradients = (torch.cat([part.grad for part in x]) for x in parts)
                context.save_for_backward(*gradients)
                return value

            @staticmethod
            def backward(context, upstream):
                return tuple(upstream * x for x in context.saved_tensors)

        return lambda _, columns: Cached.apply(*columns), []

    return make


class GivenScores:
    """Stands for a cross-encoder: it returns the given scores, whatever the pairs."""

    device, num_labels = "cpu", 1

    def preprocess(self, pairs, **_):
        """No tokens."""
        return {}

    def __call__(self, _):
        return {"scores": self.scores}


def list_loss(name, **options):
    """A loss of sentence-transformers on lists of documents."""

    def make():
        from sentence_transformers.cross_encoder import losses

        model = GivenScores()
        loss = getattr(losses, name)(model, mini_batch_size=-1, **options)

        def function(labels, columns):
            (model.scores,) = columns  # [B, L], of which it takes the entries
            documents = [["a document"] * labels.shape[1]] * len(labels)
            return loss([["a query"] * len(labels), documents], list(labels))

        return function, []

    return make


def metric_learning(name, miner=None, miner_options=None, **options):
    """A loss of pytorch-metric-learning, with its miner."""

    def make():
        from pytorch_metric_learning import losses, miners

        loss = getattr(losses, name)(**options)
        if miner is None:
            return lambda ids, columns: loss(columns[0], ids), []
        mine = getattr(miners, miner)(**(miner_options or {}))
        return lambda ids, columns: loss(columns[0], ids, mine(columns[0], ids)), []

    return make


def class_centers(name):
    """A loss of pytorch-metric-learning that owns class centres, with these."""

    def make(centers):
        import torch
        from pytorch_metric_learning import losses

        loss = getattr(losses, name)(num_classes=len(centers), embedding_size=DIM)
        if hasattr(loss, "W"):  # [D, C]
            loss.W.data = torch.from_numpy(np.ascontiguousarray(centers.T))
        else:  # [C, D]
            loss.proxies.data = torch.from_numpy(centers)
        return lambda y, columns: loss(columns[0], y), list(loss.parameters())

    return make


# The formulas of open_clip, from https://github.com/mlfoundations/open_clip.


def clip(scale):
    """What open_clip's ClipLoss computes in one process."""

    def make():
        import torch
        from torch.nn.functional import cross_entropy

        def function(_, columns):
            a, b = columns
            own = torch.arange(len(a))
            of_a, of_b = scale * a @ b.T, scale * b @ a.T
            return (cross_entropy(of_a, own) + cross_entropy(of_b, own)) / 2

        return function, []

    return make


def sig_lip(scale, bias):
    """What open_clip's SigLipLoss computes in one process."""

    def make():
        import torch
        from torch.nn.functional import logsigmoid

        def function(_, columns):
            a, b = columns
            signs = 2 * torch.eye(len(a)) - 1
            return -logsigmoid(signs * (scale * a @ b.T + bias)).sum() / len(a)

        return function, []

    return make
