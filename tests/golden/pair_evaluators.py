"""What sentence-transformers' evaluators of pairs and triplets report.

    PYTHON golden/pair_evaluators.py OUT.npz    # sentence-transformers 6.2

The texts are row numbers, and the model looks their embeddings up.
"""

import sys

import numpy as np
import torch
from sentence_transformers.sentence_transformer import evaluation

DISTANCES = ["cosine", "dot", "euclidean", "manhattan"]


class Model:
    """Stands for a SentenceTransformer: text i has row i of the embeddings."""

    similarity_fn_name = "cosine"

    def __init__(self, rows):
        self.rows = rows
        self.model_card_data = self

    def encode(self, texts, convert_to_numpy=True, **options):
        rows = self.rows[[int(text) for text in texts]]
        return rows if convert_to_numpy else list(torch.from_numpy(rows))

    encode_query = encode_document = encode

    def set_evaluation_metrics(self, *arguments, **options):
        """Does nothing, as there is no model card."""


def main(out):
    rng, arrays = np.random.default_rng(0), {}
    sizes = [(200, 8, False), (60, 4, True), (3, 4, False)]
    for case, (num, dim, coarse) in enumerate(sizes):
        rows = rng.normal(size=[3 * num, dim]).astype("float32")
        rows[num:] += np.tile(rows[:num], (2, 1)) * rng.uniform(0, 2, [2 * num, 1])
        # Coarse ones have equal similarities and scores, without rounding of length 2.
        rows = np.where(rows > 0, 1, -1) if coarse else rows
        rows = rows.astype("float32")
        model = Model(rows)
        a, b, c = (
            [str(i) for i in range(start, start + num)] for start in (0, num, 2 * num)
        )
        near = (rows[:num] * rows[num : 2 * num]).sum(axis=1)
        scores = np.round(near + rng.normal(size=num), 0 if coarse else 3)
        labels = (near + rng.normal(size=num) > 0.5).astype("int64")
        labels[:2] = 0, 1
        similar = evaluation.EmbeddingSimilarityEvaluator(
            a, b, scores.tolist(), similarity_fn_names=DISTANCES, write_csv=False
        )
        binary = evaluation.BinaryClassificationEvaluator(
            a, b, labels.tolist(), similarity_fn_names=DISTANCES, write_csv=False
        )
        triplets = evaluation.TripletEvaluator(
            a, b, c, similarity_fn_names=DISTANCES, margin=0.1, write_csv=False
        )
        translations = evaluation.TranslationEvaluator(a, b, write_csv=False)
        found = {
            **similar(model),
            **{f"triplet_{k}": v for k, v in triplets(model).items()},
            **{f"translation_{k}": v for k, v in translations(model).items()},
        }
        counts = [(1 + i % 3, 2 + i % 4) for i in range(num // 6)]
        samples, start = [], num
        for i, (positives, negatives) in enumerate(counts):
            texts = [str(j) for j in range(start, start + positives + negatives)]
            start += len(texts)
            samples.append(
                {
                    "query": str(i),
                    "positive": texts[:positives],
                    "negative": texts[positives:],
                }
            )
        if samples:
            reranking = evaluation.RerankingEvaluator(samples, at_k=3, write_csv=False)
            for name, value in reranking.compute_metrics_batched(model).items():
                found[f"reranking_{name}"] = value
        pairs = [(str(i), str(num + i)) for i in range(0, num, 2)]
        paraphrases = evaluation.ParaphraseMiningEvaluator(
            {text: text for text in a + b}, pairs, top_k=5, max_pairs=4 * num,
            write_csv=False,
        )  # fmt: skip
        found |= {f"mining_{k}": v for k, v in paraphrases(model).items()}
        for name, of in binary.compute_metrics(model).items():
            found |= {f"pairs_{name}_{metric}": value for metric, value in of.items()}
        prefix = f"case{case}"
        arrays |= {f"{prefix}/{name}": np.float64(value) for name, value in found.items()}
        arrays |= {
            f"{prefix}/rows": rows, f"{prefix}/scores": scores, f"{prefix}/labels": labels,
        }  # fmt: skip
        print(prefix, len(found), found)
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
