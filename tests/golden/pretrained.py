# ruff: noqa: E501, RUF001
"""Makes small checkpoint folders of each architecture, and sentence-transformers' embeddings.

    PYTHON golden/pretrained.py OUT    # sentence-transformers 6.2, sentencepiece, protobuf

The weights are random, far from their initial values, and the tokenizers are of each
architecture's own kind, trained on the texts below. Each folder is as
`SentenceTransformer.save` writes it; `embeddings.npz` holds the peer's embeddings of TEXTS,
and of them with each prompt.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

# Article 1 of the Universal Declaration of Human Rights.
ARTICLES = [
    "All human beings are born free and equal in dignity and rights. They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués "
    "de raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como "
    "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "人人生而自由,在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "def f(x_1, y): return x_1.T @ y[:, 0] != 'x' and 3.14e-5 < 1000",
]
TEXTS = [
    "",
    " ",
    "a",
    "All human beings are born free.",
    "  leading, trailing  and   double spaces  ",
    "Straße, Ærø, naïve CAFÉ, İstanbul, e\u0301 combining",
    "Ελληνικά και русский ЁЖИК",
    "中文字符 and 日本語のテキスト and 한국어 and العربية and हिन्दी",
    "emoji 👩‍👩‍👧 😀 and ﬁne … ½ ﾊﾝｶｸ ligatures ①",
    "tab\tnew\nline\r\n, zero\u200bwidth, nul\x00, bell\x07, nbsp\u00a0, soft\u00adhyphen",
    "x_1.T @ y[:, 0] != '«quoted»' can't WE'LL it's 1234567 3.14",
    "[CLS] written [SEP] out [MASK] [PAD] [UNK]",
    "<s> written </s> out <mask> <pad> <unk>",
    "<|endoftext|> written <bos> out <eos> <end_of_turn>",
    "Alle Menschen sind frei und gleich " * 40,
    "word " * 10000,
]
SIZE = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
LONGEST = 48
VOCABULARY = 400


def corpus():
    return [text for text in ARTICLES for _ in range(3)]


# Tokenizers, as transformers makes them.


def word_piece(lower_case=True, tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(tokens))
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer.get_vocab()


def bert_tokenizer(kind="BertTokenizer", lower_case=True):
    import transformers

    vocabulary = word_piece(lower_case)
    return getattr(transformers, kind)(vocab=vocabulary, do_lower_case=lower_case)


def mpnet_tokenizer():
    import transformers

    tokens = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
    vocabulary = word_piece(tokens=tokens)
    return transformers.MPNetTokenizer(vocab=vocabulary, do_lower_case=True)


def sentence_piece(folder, **options):
    import sentencepiece

    (folder / "corpus.txt").write_text("\n".join(corpus()), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spm"),
        vocab_size=options.pop("vocab_size", VOCABULARY),
        hard_vocab_limit=options.get("model_type") == "bpe",
        character_coverage=0.98,
        minloglevel=2,
        **options,
    )
    return folder / "spm.model"


def from_sentence_piece(kind, file, **options):
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, pathlib.Path(folder, options.pop("as_file")))
        return getattr(transformers, kind).from_pretrained(folder, **options)


def xlm_roberta_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = sentence_piece(
            pathlib.Path(folder), normalization_rule_name="nmt_nfkc", unk_id=0, bos_id=1,
            eos_id=2,
        )  # fmt: skip
        return from_sentence_piece(
            "XLMRobertaTokenizer", file, as_file="sentencepiece.bpe.model"
        )


def camembert_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = sentence_piece(
            pathlib.Path(folder), normalization_rule_name="nmt_nfkc", unk_id=0, bos_id=1,
            eos_id=2,
        )  # fmt: skip
        return from_sentence_piece(
            "CamembertTokenizer", file, as_file="sentencepiece.bpe.model"
        )


def albert_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = sentence_piece(
            pathlib.Path(folder), normalization_rule_name="nmt_nfkc_cf", pad_id=0, unk_id=1,
            bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP]",
            user_defined_symbols="[MASK]",
        )  # fmt: skip
        return from_sentence_piece("AlbertTokenizer", file, as_file="spiece.model")


def deberta_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = sentence_piece(
            pathlib.Path(folder), normalization_rule_name="nmt_nfkc", pad_id=0, bos_id=1,
            eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
            unk_piece="[UNK]",
        )  # fmt: skip
        return from_sentence_piece("DebertaV2Tokenizer", file, as_file="spm.model")


def byte_bpe(special, size=VOCABULARY):
    import tokenizers

    tokenizer = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    tokenizer.train_from_iterator(corpus(), vocab_size=size, special_tokens=special)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def roberta_tokenizer():
    import transformers

    vocabulary, merges = byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)


def qwen_tokenizer():
    import transformers
    from tokenizers import processors

    vocabulary, merges = byte_bpe([])
    vocabulary = dict(vocabulary)
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    end = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"$A {end}",
                special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))],
            ),
        ]
    )
    return tokenizer


def gemma_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = sentence_piece(
            pathlib.Path(folder), model_type="bpe", vocab_size=700, normalization_rule_name="identity",
            byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False,
            split_digits=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>",
            eos_piece="<eos>", bos_piece="<bos>",
            user_defined_symbols="<start_of_turn>,<end_of_turn>",
        )  # fmt: skip
        return from_sentence_piece(
            "GemmaTokenizer", file, as_file="tokenizer.model", add_eos_token=True
        )


# Folders.


def checkpoint(folder, config, tokenizer, modules, *, length=LONGEST, **model_options):
    """Writes the folder of a model with random weights; returns its embeddings."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer

    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.3 if "embeddings" not in name else 1.0)
            else:
                weights.add_(torch.randn_like(weights) * 0.3)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        transformer = Transformer(scratch, max_seq_length=length)
    dim = config.hidden_size if hasattr(config, "hidden_size") else config.dim
    sentence = SentenceTransformer(
        modules=[transformer, *modules(dim)], device="cpu", **model_options
    )
    sentence.eval()
    shutil.rmtree(folder, ignore_errors=True)
    sentence.save(str(folder), create_model_card=False)
    embeddings = {"": sentence.encode(TEXTS, batch_size=4)}
    for name in sentence.prompts:
        embeddings[name] = sentence.encode(TEXTS, batch_size=4, prompt_name=name)
    tokens = sentence.tokenizer(TEXTS, truncation=True, max_length=length)["input_ids"]
    return embeddings, tokens


def main(out):
    import torch
    import transformers as hf
    from sentence_transformers import models

    def mean(dim):
        return [models.Pooling(dim, "mean")]

    def normalized(mode):
        return lambda dim: [models.Pooling(dim, mode), models.Normalize()]

    def dense(dim):
        layer = models.Dense(dim, 12, activation_function=torch.nn.Tanh())
        return [models.Pooling(dim, "mean"), layer, models.Normalize()]

    def two_dense(dim):
        options = {"bias": False, "activation_function": torch.nn.Identity()}
        layers = models.Dense(dim, 24, **options), models.Dense(24, 12, **options)
        return [models.Pooling(dim, "mean"), *layers, models.Normalize()]

    bert = bert_tokenizer()
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    prompts = {"query": "query: ", "document": "passage: "}
    wide = {"intermediate_size": 24, "max_position_embeddings": 64}
    xlm, roberta, mpnet = xlm_roberta_tokenizer(), roberta_tokenizer(), mpnet_tokenizer()
    albert, deberta = albert_tokenizer(), deberta_tokenizer()
    camembert = camembert_tokenizer()
    qwen, gemma = qwen_tokenizer(), gemma_tokenizer()
    cased = bert_tokenizer(lower_case=False)
    decoder = {"head_dim": 8, "num_key_value_heads": 2}
    gemma_options = {
        "vocab_size": len(gemma), "sliding_window": 8, "query_pre_attn_scalar": 5,
        "layer_types": ["sliding_attention", "full_attention"], **SIZE, **wide, **decoder,
    }  # fmt: skip
    made = {
        "bert": (
            hf.BertConfig(vocab_size=len(bert), **SIZE, **wide),
            bert,
            normalized("mean"),
            {},
        ),
        "bert-cased-cls": (
            hf.BertConfig(
                vocab_size=len(cased), hidden_act="gelu_new", layer_norm_eps=1e-6, **SIZE,
                **wide,
            ),
            cased,
            lambda dim: [models.Pooling(dim, ("cls", "max", "mean_sqrt_len_tokens"))],
            {},
        ),
        "distilbert": (
            hf.DistilBertConfig(
                vocab_size=len(bert), dim=16, n_heads=4, n_layers=2, hidden_dim=24,
                max_position_embeddings=64,
            ),
            bert,
            dense,
            {},
        ),
        "electra": (
            hf.ElectraConfig(vocab_size=len(bert), embedding_size=8, **SIZE, **wide),
            bert,
            lambda dim: [models.Pooling(dim, "weightedmean")],
            {},
        ),
        "roberta": (
            hf.RobertaConfig(
                vocab_size=len(roberta), type_vocab_size=1, layer_norm_eps=1e-5, **ids,
                **SIZE, **wide,
            ),
            roberta,
            normalized("mean"),
            {},
        ),
        "xlm-roberta": (
            hf.XLMRobertaConfig(
                vocab_size=len(xlm), type_vocab_size=1, layer_norm_eps=1e-5, **ids, **SIZE,
                **wide,
            ),
            xlm,
            normalized("mean"),
            {"prompts": prompts},
        ),
        "camembert": (
            hf.CamembertConfig(
                vocab_size=len(camembert), type_vocab_size=1, layer_norm_eps=1e-5,
                bos_token_id=5, pad_token_id=1, eos_token_id=6, **SIZE, **wide,
            ),
            camembert,
            mean,
            {},
        ),
        "mpnet": (
            hf.MPNetConfig(vocab_size=len(mpnet), layer_norm_eps=1e-5, **ids, **SIZE, **wide),
            mpnet,
            normalized("mean"),
            {},
        ),
        "albert": (
            hf.AlbertConfig(
                vocab_size=len(albert), embedding_size=8, **SIZE, **wide, pad_token_id=0,
            ),
            albert,
            mean,
            {},
        ),
        "deberta-v3": (
            hf.DebertaV2Config(
                vocab_size=len(deberta), relative_attention=True, position_buckets=8,
                norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
                layer_norm_eps=1e-7, max_relative_positions=-1,
                position_biased_input=False, type_vocab_size=0, **SIZE, **wide,
            ),
            deberta,
            mean,
            {},
        ),
        "qwen3": (
            hf.Qwen3Config(
                vocab_size=len(qwen) + 2, **SIZE, **wide, **decoder,
                tie_word_embeddings=True,
            ),
            qwen,
            normalized("lasttoken"),
            {"prompts": {"query": "Instruct: search\nQuery:", "document": ""}},
        ),
        "gemma3": (
            hf.Gemma3TextConfig(use_bidirectional_attention=True, **gemma_options),
            gemma,
            two_dense,
            {"prompts": prompts, "default_prompt_name": "document"},
        ),
        "gemma3-causal": (
            hf.Gemma3TextConfig(**gemma_options), gemma, normalized("lasttoken"), {},
        ),
    }  # fmt: skip
    only = sys.argv[2:]
    results = {}
    for name, (config, tokenizer, modules, options) in made.items():
        if only and name not in only:
            continue
        embeddings, tokens = checkpoint(out / name, config, tokenizer, modules, **options)
        for prompt, values in embeddings.items():
            results[f"{name}/{prompt}"] = values.astype("float32")
        longest = max(map(len, tokens))
        padded = [row + [-1] * (longest - len(row)) for row in tokens]
        results[f"{name}/tokens"] = np.array(padded, "int32")
        print(name, values.shape)
    np.savez_compressed(out / "embeddings.npz", **results)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
