"""Makes small checkpoint folders of cross-encoders, and sentence-transformers' scores.

    PYTHON golden/rerankers.py OUT    # sentence-transformers 6.2, sentencepiece, protobuf

Their weights and tokenizers are made as in pretrained.py. `scores.npz` holds, of each, the
peer's logits and token ids of PAIRS.
"""

import pathlib
import sys
import tempfile

import numpy as np
import pretrained as golden

PAIRS = list(zip(golden.TEXTS, golden.TEXTS[::-1], strict=True)) + [
    (text, golden.TEXTS[(5 * i + 3) % len(golden.TEXTS)])
    for i, text in enumerate(golden.TEXTS)
]


def reranker(folder, config, tokenizer):
    """Writes the folder of a model with random weights; returns logits and token ids."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder

    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0, 1.0 if "embeddings" in name else 0.3)
            else:
                weights.add_(torch.randn_like(weights) * 0.3)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        peer = CrossEncoder(scratch, max_length=golden.LONGEST, device="cpu")
    peer.save_pretrained(str(folder))
    (folder / "README.md").unlink()
    scores = peer.predict(PAIRS, batch_size=4, activation_fn=torch.nn.Identity())
    first, second = map(list, zip(*PAIRS, strict=True))
    tokens = peer.tokenizer(first, second, truncation=True, max_length=golden.LONGEST)
    return scores, tokens["input_ids"]


def main(out):
    import transformers as hf

    bert, roberta = golden.bert_tokenizer(), golden.roberta_tokenizer()
    xlm, mpnet = golden.xlm_roberta_tokenizer(), golden.mpnet_tokenizer()
    albert, deberta = golden.albert_tokenizer(), golden.deberta_tokenizer()
    camembert = golden.camembert_tokenizer()
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    size = {
        "intermediate_size": 24, "max_position_embeddings": 64, "num_labels": 1,
        **golden.SIZE,
    }  # fmt: skip
    like_roberta = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, **size}
    made = {
        "bert": (hf.BertConfig(vocab_size=len(bert), **size), bert),
        "distilbert": (
            hf.DistilBertConfig(
                vocab_size=len(bert), dim=16, n_heads=4, n_layers=2, hidden_dim=24,
                max_position_embeddings=64, num_labels=1,
            ),
            bert,
        ),
        "electra": (
            hf.ElectraConfig(vocab_size=len(bert), embedding_size=8, **size), bert,
        ),
        "roberta": (
            hf.RobertaConfig(vocab_size=len(roberta), **ids, **like_roberta), roberta,
        ),
        "xlm-roberta": (
            hf.XLMRobertaConfig(vocab_size=len(xlm), **ids, **like_roberta), xlm,
        ),
        "camembert": (
            hf.CamembertConfig(
                vocab_size=len(camembert), bos_token_id=5, pad_token_id=1, eos_token_id=6,
                **like_roberta,
            ),
            camembert,
        ),
        "mpnet": (
            hf.MPNetConfig(vocab_size=len(mpnet), layer_norm_eps=1e-5, **ids, **size),
            mpnet,
        ),
        "albert": (
            hf.AlbertConfig(
                vocab_size=len(albert), embedding_size=8, pad_token_id=0, **size,
            ),
            albert,
        ),
        "deberta-v3": (
            hf.DebertaV2Config(
                vocab_size=len(deberta), relative_attention=True, position_buckets=8,
                norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
                layer_norm_eps=1e-7, max_relative_positions=-1,
                position_biased_input=False, type_vocab_size=0, **size,
            ),
            deberta,
        ),
    }  # fmt: skip
    results = {}
    for name, (config, tokenizer) in made.items():
        scores, tokens = reranker(out / name, config, tokenizer)
        results[f"{name}/scores"] = scores.astype("float32")
        longest = max(map(len, tokens))
        padded = [row + [-1] * (longest - len(row)) for row in tokens]
        results[f"{name}/tokens"] = np.array(padded, "int32")
        print(name, scores[:4])
    np.savez_compressed(out / "scores.npz", **results)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
