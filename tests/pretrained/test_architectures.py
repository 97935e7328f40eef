"""What the architectures refuse, and what holds for those beyond BERT's relatives."""

import json
import shutil

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from pretrained import TEXTS

import tfembloss

REASON = 'pip install ".[hub]"'
safetensors = pytest.importorskip("safetensors.numpy", reason=f"no safetensors: {REASON}")
pytest.importorskip("sentencepiece", reason=f"no sentencepiece: {REASON}")

NEW = ("deberta-v3", "gemma3", "gemma3-causal", "qwen3")


def load(folder, **options):
    return tfembloss.EmbeddingModel.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("deberta-v3", {"conv_kernel_size": 3}),
        ("deberta-v3", {"embedding_size": 8}),
        ("deberta-v3", {"hidden_act": "mish"}),
        ("deberta-v3", {"norm_rel_ebd": None}),
        ("deberta-v3", {"pos_att_type": "c2p"}),
        ("deberta-v3", {"relative_attention": False}),
        ("deberta-v3", {"share_att_key": False}),
        ("gemma3", {"attention_bias": True}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
        ("gemma3", {"hidden_activation": "mish"}),
        ("gemma3", {"layer_types": ["full_attention", "chunked_attention"]}),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "linear"}}}),
        ("gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma3", {"head_dim": None}),
        ("qwen3", {"attention_bias": True}),
        ("qwen3", {"hidden_act": "mish"}),
        ("qwen3", {"layer_types": ["full_attention"]}),
        ("qwen3", {"partial_rotary_factor": 0.5}),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}),
        ("qwen3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ("qwen3", {"use_sliding_window": True}),
        ("qwen3", {"is_causal": False}),
        ("qwen3", {"num_key_value_heads": None}),
    ],
)
def test_other_settings_are_refused(golden, tmp_path, name, changes):
    folder = shutil.copytree(golden[0] / name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=f"(?s)Expected.*Received.*{next(iter(changes))}"):
        load(folder)


@pytest.mark.parametrize("name", NEW)
def test_xla_and_bfloat16(golden, name):
    model = load(golden[0] / name)
    found = model.preprocessor(TEXTS)
    expected = model.encoder(found)
    compiled = tf.function(model.encoder, jit_compile=True)(found)
    np.testing.assert_allclose(compiled, expected, atol=1e-5)

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = load(golden[0] / name).encoder
        embeddings = encoder(found)
    finally:
        keras.config.set_dtype_policy("float32")
    assert encoder.get_layer("block_0").compute_dtype == "bfloat16"
    assert embeddings.dtype == "float32"
    embeddings, expected = (tf.math.l2_normalize(x, axis=1) for x in (embeddings, expected))
    cosines = tf.reduce_sum(embeddings * expected, axis=1)
    assert float(tf.reduce_min(cosines)) > 0.98
    assert not np.array_equal(embeddings, expected)


@pytest.mark.parametrize("name", ["gemma3", "gemma3-causal", "qwen3"])
def test_padding_on_any_side_changes_nothing(golden, name):
    model = load(golden[0] / name)
    found = model.preprocessor(TEXTS[3:5])
    expected = model.encoder(found)
    ids, mask = (np.pad(x, [[0, 0], [0, 9]]) for x in found.values())
    for shift in (0, 9):
        rolled = {
            "token_ids": np.roll(np.where(mask, ids, 7), shift, axis=1),
            "padding_mask": np.roll(mask, shift, axis=1),
        }
        np.testing.assert_allclose(model.encoder(rolled), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma3-causal", "qwen3"])
def test_causal_tokens_do_not_see_what_follows(golden, name):
    model = load(golden[0] / name)
    states = keras.Model(model.encoder.input, model.encoder.get_layer("norm").output)
    ids = np.arange(20)[None] + 5
    other = np.where(np.arange(20) < 12, ids, 99)
    first, second = (
        states({"token_ids": x, "padding_mask": np.ones_like(x)}) for x in (ids, other)
    )
    changed = np.abs(first - second).max(axis=(0, 2))
    assert (changed[:12] < 1e-5).all() and (changed[12:] > 1e-2).all()


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_weights_in_several_files_and_in_bfloat16(golden, tmp_path, name):
    source = golden[0] / name
    weights = safetensors.load_file(source / "model.safetensors")
    rounded = {x: values.astype(ml_dtypes.bfloat16) for x, values in weights.items()}
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files = {x: names[i % 2] for i, x in enumerate(rounded)}

    whole = shutil.copytree(source, tmp_path / "whole")
    exact = {x: values.astype("float32") for x, values in rounded.items()}
    safetensors.save_file(exact, whole / "model.safetensors")
    split = shutil.copytree(source, tmp_path / "split")
    (split / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in names:
        part = {x: values for x, values in rounded.items() if files[x] == file}
        safetensors.save_file(part, split / file)

    expected, found = (load(x).predict(TEXTS, verbose=0) for x in (whole, split))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(load(source).predict(TEXTS, verbose=0) - found).max() > 1e-4
    (split / names[1]).unlink()
    with pytest.raises(ValueError, match=f"Expected the weights in .*{names[1]}"):
        load(split)


def test_rotary_positions_have_no_limit(golden):
    model = load(golden[0] / "qwen3", sequence_length=5000)
    assert model.preprocessor(TEXTS[-1:])["token_ids"].shape == (1, 5000)
    with pytest.raises(ValueError, match="no more position embeddings"):
        load(golden[0] / "bert", sequence_length=65)
