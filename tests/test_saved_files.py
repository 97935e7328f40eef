"""Files that an earlier version of the package saved load, and give what they gave."""

import json
import shutil

import keras
import numpy as np
import pytest
import saved
import tensorflow as tf
from cases import CASES
from goldens import FOLDER

SAVED = FOLDER / "saved"
OBJECTS = json.loads((SAVED / "objects.json").read_text())
# A denoising model's loss is of texts with other words deleted each time.
RANDOM = {"denoising"}


@pytest.fixture(scope="module")
def outputs():
    with np.load(SAVED / "outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def models():
    return saved.models()


def assert_close(ours, saved):
    np.testing.assert_allclose(ours, saved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(path.stem for path in SAVED.glob("*.keras")))
def test_models_load(name, models, outputs):
    _, _, x, y = models[name]
    model = keras.models.load_model(SAVED / f"{name}.keras")
    assert_close(model.predict(x, verbose=0), outputs[name])
    if name not in RANDOM:
        loss = model.evaluate(x, y, batch_size=4, verbose=0)
        assert_close(loss, outputs[f"{name}/loss"])
    model.fit(x, y, batch_size=4, verbose=0)  # the optimizer goes with it


def test_weights_load(models, outputs):
    model, _, x, _ = models["pairs"]
    model.predict(x, verbose=0)
    model.load_weights(SAVED / "pairs.weights.h5")
    assert_close(model.predict(x, verbose=0), outputs["pairs"])


def test_an_export_loads(tmp_path, outputs):
    shutil.unpack_archive(SAVED / "export.zip", tmp_path)
    served = tf.saved_model.load(tmp_path).signatures["serving_default"]
    expected = outputs["export"]  # embeddings are exported with length 1
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    (embeddings,) = served(tf.constant(saved.TEXTS)).values()
    assert_close(embeddings, expected)


def without_modules(x):
    """A config without where its classes were, which may have moved, and without None."""
    if not isinstance(x, dict):
        return x
    return {
        name: without_modules(part)
        for name, part in x.items()
        if name != "module" and part is not None
    }


def assert_holds(config, saved):
    """Nothing that was saved is lost; arguments that are new since have defaults."""
    for name, value in saved.items():
        if isinstance(value, dict):
            assert_holds(config[name], value)
        else:
            assert config[name] == value, name


@pytest.mark.parametrize("name", OBJECTS)
def test_losses_and_miners_load(name, outputs):
    loaded = keras.saving.deserialize_keras_object(OBJECTS[name])
    again = json.loads(json.dumps(keras.saving.serialize_keras_object(loaded)))
    assert again["registered_name"] == OBJECTS[name]["registered_name"]
    assert_holds(without_modules(again), without_modules(OBJECTS[name]))
    if name in CASES:
        y_true, y_pred = CASES[name].inputs(9)
        assert_close(loaded(y_true, y_pred), outputs[f"losses/{name}"])
