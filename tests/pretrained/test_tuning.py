"""Fine-tuning as people do it: rates by part, LoRA, frozen layers, precision, schedules."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, Adam
from pretrained import TEXTS

import tfembloss
from tfembloss.losses import MultipleNegativesRankingLoss
from tfembloss.optimizers import MultiOptimizer, layerwise_decay

REASON = 'pip install ".[hub]"'
pytest.importorskip("safetensors.numpy", reason=f"no safetensors: {REASON}")

HIDDEN = 24  # units in the middle of a block, which has 16 outside
PAIRS = TEXTS[2:10], TEXTS[6:14]


@pytest.fixture(scope="module")
def folder(golden):
    """The folder of the checkpoints."""
    return golden[0]


def load(folder, **options):
    keras.utils.set_random_seed(0)
    return tfembloss.EmbeddingModel.from_pretrained(folder, **options)


def fit(model, optimizer=None, epochs=1):
    """Trains two steps in each epoch; compiles the model first if there is an optimizer."""
    if optimizer is not None:
        model.compile(optimizer, MultipleNegativesRankingLoss(), run_eagerly=True)
    history = model.fit(PAIRS, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def embed(model):
    return model.predict(TEXTS, verbose=0)


def values(model):
    return {v.path: v.numpy() for v in model.encoder.weights}


def moved(before, model):
    """Paths of the encoder's variables that training has changed."""
    after = values(model)
    return [path for path in before if np.abs(after[path] - before[path]).max() > 1e-7]


def resumes(model, path):
    """Checks that the model goes on the same when it was saved and loaded."""
    model.save(path)
    again = keras.saving.load_model(path)
    np.testing.assert_allclose(embed(again), embed(model), atol=1e-6)
    assert count(again) == count(model)
    assert fit(again) == fit(model)
    for one, two in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    return again


def count(model):
    return [v.path for v in model.encoder.trainable_variables]


def forms(model, tmp_path):
    """The embeddings of a model that is saved, written as a folder and exported."""
    model.save(tmp_path / "model.keras")
    model.save_pretrained(tmp_path / "folder")
    tfembloss.export_encoder(model, tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    return {
        "keras": embed(keras.saving.load_model(tmp_path / "model.keras")),
        "folder": embed(load(tmp_path / "folder")),
        "export": serve(text=tf.constant(TEXTS))["embedding"].numpy(),
    }


# Learning rates by part.


def test_parts_have_rates_of_their_own(folder, tmp_path):
    model = load(folder / "bert")
    before = values(model)
    groups = [("bias|norm", Adam(1e-3)), (model.encoder.get_layer("block_1"), Adam(0.0))]
    fit(model, MultiOptimizer(Adam(0.0), groups))
    found = moved(before, model)
    assert found and all("bias" in path or "norm" in path for path in found)
    resumes(model, tmp_path / "model.keras")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("bert", {"embeddings": 0.25, "block_0": 0.5, "block_1": 1.0}),
        ("albert", {"embeddings": 0.5, "projection": 0.5, "block_0_0": 1.0}),
        ("mpnet", {"embeddings": 0.25, "positions": 0.25, "block_0": 0.5, "block_1": 1.0}),
    ],
)
def test_lower_blocks_have_lower_rates(folder, name, expected):
    changes = []
    for decay in (1.0, 0.5):
        model = load(folder / name)
        before = values(model)
        optimizer = layerwise_decay(model, SGD(0.1), decay)
        model.compile(optimizer, MultipleNegativesRankingLoss(), run_eagerly=True)
        model.train_on_batch(PAIRS)
        after = values(model)
        changes.append({path: after[path] - before[path] for path in before})
    full, decayed = changes
    for path, change in decayed.items():
        rate = expected[path.split("/")[0]]
        np.testing.assert_allclose(change, rate * full[path], atol=2e-6, err_msg=path)
    assert {path.split("/")[0] for path in moved(before, model)} == expected.keys()


# LoRA.


@pytest.mark.parametrize("name, mini_batch_size", [("bert", None), ("mpnet", 3)])
def test_lora_trains_alone_and_is_the_same_in_every_form(
    folder, name, mini_batch_size, tmp_path
):
    model = load(folder / name, mini_batch_size=mini_batch_size)
    start = embed(model)
    model.encoder.enable_lora(2, alpha=4)
    np.testing.assert_allclose(embed(model), start, atol=1e-6)
    before = values(model)
    fit(model, Adam(1e-2), epochs=2)
    changed = moved(before, model)
    assert changed == count(model)
    assert all("/query/lora_" in path or "/value/lora_" in path for path in changed)
    after = embed(model)
    assert np.abs(after - start).max() > 1e-3
    for form, embeddings in forms(model, tmp_path).items():
        np.testing.assert_allclose(embeddings, after, atol=1e-5, err_msg=form)
    resumes(model, tmp_path / "model.keras")


def test_mini_batches_with_lora_are_the_whole_batch(folder):
    ends = []
    for mini_batch_size in (None, 3):
        model = load(folder / "bert", mini_batch_size=mini_batch_size, dropout=0.0)
        model.encoder.enable_lora(2)
        fit(model, SGD(0.1), epochs=2)
        ends.append(model)
    for one, two in zip(*(model.encoder.weights for model in ends), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_lora_says_how_much_it_trains(folder, capsys):
    model = load(folder / "bert")
    total = model.encoder.count_params()
    model.encoder.enable_lora(1, parts=["intermediate", "output_dense"])
    assert capsys.readouterr().out == (
        f"LoRA of rank 1: trains {100 * 2 * (16 + 16 + 16 + HIDDEN) / total:.2g} % of "
        f"{total:,} weights\n"
    )
    assert {path.split("/")[1] for path in count(model)} == {"intermediate", "output"}
    with pytest.raises(ValueError, match="an encoder without LoRA"):
        model.encoder.enable_lora(1)
    with pytest.raises(ValueError, match=r"`parts` must be one of 'query'.*'norm'"):
        load(folder / "bert").encoder.enable_lora(1, parts=["norm"])
    with pytest.raises(ValueError, match="`rank` must be an integer >= 1"):
        load(folder / "bert").encoder.enable_lora(0)


def test_weights_go_between_models_with_and_without_lora(folder, tmp_path):
    plain, tuned = load(folder / "bert"), load(folder / "bert")
    tuned.encoder.enable_lora(2, alpha=3)
    fit(tuned, Adam(1e-2))
    tuned.encoder.save_weights(tmp_path / "tuned.weights.h5")
    plain.encoder.load_weights(tmp_path / "tuned.weights.h5")
    np.testing.assert_allclose(embed(plain), embed(tuned), atol=1e-5)
    plain.encoder.save_weights(tmp_path / "plain.weights.h5")
    tuned.encoder.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_allclose(embed(tuned), embed(plain), atol=1e-6)
    before = values(tuned)
    fit(tuned)
    assert len(moved(before, tuned)) == len(count(tuned))


# Frozen layers.


def sizes(model):
    return sum(v.numpy().size for v in model.trainable_variables)


BLOCK = 4 * (16 * 16 + 16) + 2 * 16 * HIDDEN + HIDDEN + 16 + 4 * 16


def test_lower_blocks_are_frozen(folder, tmp_path):
    model = load(folder / "bert")
    for num_blocks in (0, 1, 2):
        model.encoder.freeze(num_blocks)
        assert sizes(model) == (2 - num_blocks) * BLOCK
    for layer in model.encoder.layers:
        layer.trainable = True
    assert sizes(model) == model.encoder.count_params()
    model.encoder.freeze(1)
    before = values(model)
    fit(model, Adam(1e-3))
    changed = moved(before, model)
    assert changed == count(model) and {x.split("/")[0] for x in changed} == {"block_1"}
    again = resumes(model, tmp_path / "model.keras")
    assert sizes(again) == BLOCK
    assert not again.encoder.get_layer("block_0").trainable


def test_what_comes_before_the_blocks_is_frozen(folder):
    for name, parts in (("albert", {"block_0_0"}), ("mpnet", {"block_0", "block_1"})):
        model = load(folder / name)
        model.encoder.freeze()
        assert {path.split("/")[0] for path in count(model)} == parts
    with pytest.raises(ValueError, match="`num_blocks` must be an integer from 0 to 2"):
        model.encoder.freeze(3)


def test_lora_in_the_blocks_that_are_not_frozen(folder, tmp_path):
    model = load(folder / "bert")
    model.encoder.freeze(2)
    model.encoder.enable_lora(2)
    assert {path.split("/")[0] for path in count(model)} == {"block_0", "block_1"}
    model.encoder.freeze(1)
    fit(model, Adam(1e-2))
    assert {path.split("/")[0] for path in count(model)} == {"block_1"}
    resumes(model, tmp_path / "model.keras")


# Precision.


@pytest.mark.parametrize(
    "dtype, how", [("mixed_bfloat16", "argument"), ("mixed_float16", "global policy")]
)
def test_mixed_precision(folder, dtype, how, tmp_path):
    expected = embed(load(folder / "bert"))
    if how == "argument":
        model = load(folder / "bert", dtype=dtype, dropout=0.0)
    else:
        keras.config.set_dtype_policy(dtype)
        try:
            model = load(folder / "bert", dropout=0.0)
        finally:
            keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in model.encoder.weights} == {"float32"}
    assert model.encoder.get_layer("block_0").query.compute_dtype == dtype[6:]
    embeddings = embed(model)
    assert embeddings.dtype == "float32"
    assert 1e-6 < np.abs(embeddings - expected).max() < 2e-2
    losses = fit(model, Adam(1e-3), epochs=4)
    assert losses[-1] < losses[0]
    scaled = keras.optimizers.LossScaleOptimizer
    assert isinstance(model.optimizer, scaled) == (dtype == "mixed_float16")
    after = embed(model)
    found = forms(model, tmp_path)
    np.testing.assert_allclose(found["keras"], after, atol=1e-6)
    np.testing.assert_allclose(found["export"], after, atol=1e-2)
    np.testing.assert_allclose(found["folder"], after, atol=2e-2)
    again = load(tmp_path / "folder")
    for one, two in zip(model.encoder.weights, again.encoder.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    resumes(model, tmp_path / "model.keras")


def test_lora_in_half_precision_is_saved_in_full(folder, tmp_path):
    model = load(folder / "bert", dtype="mixed_bfloat16")
    model.encoder.enable_lora(2)
    fit(model, Adam(1e-2))
    full = load(folder / "bert")
    full.encoder.enable_lora(2)
    for one, two in zip(full.encoder.weights, model.encoder.weights, strict=True):
        one.assign(two)
    model.save_pretrained(tmp_path / "folder")
    again = embed(load(tmp_path / "folder"))
    np.testing.assert_allclose(again, embed(full), atol=1e-5)


# Steps.


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_accumulated_gradients_are_their_mean(folder, mini_batch_size):
    def train(steps):
        model = load(folder / "bert", mini_batch_size=mini_batch_size, dropout=0.0)
        sgd = SGD(0.1, gradient_accumulation_steps=steps)
        model.compile(sgd, MultipleNegativesRankingLoss(), run_eagerly=True)
        return model

    accumulated = train(2)
    before = values(accumulated)
    ends = []
    for half in (slice(0, 4), slice(4, 8)):
        pairs = tuple(texts[half] for texts in PAIRS)
        one = train(None)
        one.train_on_batch(pairs)
        ends.append(values(one))
        assert not moved(before, accumulated)
        accumulated.train_on_batch(pairs)
    for path, after in values(accumulated).items():
        mean = (ends[0][path] + ends[1][path]) / 2
        np.testing.assert_allclose(after, mean, atol=1e-5, err_msg=path)
    assert len(moved(before, accumulated)) > 10


def test_warm_up_and_cosine_decay(folder, tmp_path):
    cosine = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=4, warmup_target=1e-3, warmup_steps=2
    )
    model = load(folder / "bert")
    rates = []
    model.compile(Adam(cosine), MultipleNegativesRankingLoss(), run_eagerly=True)
    for _ in range(4):
        rates.append(float(model.optimizer.learning_rate))
        model.train_on_batch(PAIRS)
    assert rates[0] == 0 and rates[1] == pytest.approx(5e-4)
    assert rates[2] == pytest.approx(1e-3) and rates[3] < 1e-3
    again = resumes(model, tmp_path / "model.keras")
    assert float(again.optimizer.learning_rate) < 1e-5  # after six steps


def test_interrupted_in_mid_epoch_it_goes_on_at_the_next_batch(folder, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 3:
                raise InterruptedError

    def train(*callbacks):
        model = load(folder / "bert")  # with its dropout
        model.encoder.enable_lora(2)
        loss = MultipleNegativesRankingLoss()
        model.compile(layerwise_decay(model, Adam(1e-2), 0.8), loss, run_eagerly=True)
        model.fit(PAIRS, batch_size=4, epochs=3, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    def checkpoint():
        return tfembloss.callbacks.ResumableCheckpoint(tmp_path / "backup", save_freq=1)

    with pytest.raises(InterruptedError):
        train(checkpoint(), Stop())
    for one, two in zip(train(checkpoint()), train(), strict=True):
        np.testing.assert_array_equal(one, two)
