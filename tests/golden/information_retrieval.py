"""Makes information_retrieval.npz, where sentence-transformers 6.2.0 is installed."""

import pathlib

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.evaluation import (
    InformationRetrievalEvaluator,
)

ARRAYS = {}


class Lookup(SentenceTransformer):
    """A model whose texts are row numbers of a table of embeddings."""

    def __init__(self, table):
        super().__init__(modules=[torch.nn.Identity()], device="cpu")
        self.table = table

    def encode(self, sentences, **kwargs):
        return torch.tensor(self.table[[int(text) for text in sentences]])

    encode_query = encode_document = encode


for case, (num_queries, num_rows, dim) in enumerate([(20, 300, 8), (7, 12, 4)]):
    rng = np.random.default_rng(case)
    corpus = rng.normal(size=[num_rows, dim]).astype("float32")
    queries = rng.normal(size=[num_queries, dim]).astype("float32")
    relevant = rng.random([num_queries, num_rows]) < 0.03
    relevant[np.arange(num_queries), rng.integers(num_rows, size=num_queries)] = True
    evaluator = InformationRetrievalEvaluator(
        {f"q{q}": str(num_rows + q) for q in range(num_queries)},
        {f"d{i}": str(i) for i in range(num_rows)},
        {
            f"q{q}": {f"d{i}" for i in np.flatnonzero(relevant[q])}
            for q in range(num_queries)
        },
        mrr_at_k=[1, 10],
        ndcg_at_k=[3, 10],
        map_at_k=[5, 100],
        score_functions={"cosine": util.cos_sim, "dot": util.dot_score},
    )
    scores = evaluator(Lookup(np.concatenate([corpus, queries])))
    for name, array in {"queries": queries, "corpus": corpus, "relevant": relevant}.items():
        ARRAYS[f"ir/case{case}/{name}"] = array
    for name, score in scores.items():
        similarity, _, metric = name.partition("_")
        ARRAYS[f"ir/case{case}/{similarity}/{metric}"] = score


np.savez_compressed(pathlib.Path(__file__).with_name("information_retrieval.npz"), **ARRAYS)
