"""Exports encoders as one file of another format, without the preprocessor."""

import importlib.util
import os
import pathlib

import keras

from tfembloss.checks import integer
from tfembloss.layers import attention
from tfembloss.models.encoder_model import EncoderModel

# What Keras needs to write each.
FORMATS = {"onnx": ["tf2onnx", "onnx"], "litert": []}


def export_file(model, path, format, normalize, dimensions):
    """Writes the encoder of a model to a file; see `export_encoder`."""
    encoder = model.encoder if isinstance(model, EncoderModel) else model
    if not getattr(encoder, "inputs", None):
        raise ValueError(
            f"Expected a functional encoder for format={format!r}, one with keras.Input. "
            f"Received: {encoder!r}. Wrap it: keras.Sequential([keras.Input(shape), "
            "encoder])"
        )
    missing = [x for x in FORMATS[format] if importlib.util.find_spec(x) is None]
    if missing:
        raise ValueError(
            f"Expected {' and '.join(FORMATS[format])} for format={format!r}: pip install "
            f"{' '.join(missing)}"
        )
    x, dim = encoder.output, encoder.output_shape[-1]
    if dimensions is not None:
        x = x[:, : integer("dimensions", dimensions, 1, dim)]
    if normalize:
        x = keras.layers.UnitNormalization()(x)
    given = encoder.inputs[0] if isinstance(encoder, keras.Sequential) else encoder.input
    path = pathlib.Path(os.fspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = keras.Model(given, x)
    with attention.whole():
        whole(given)  # Keras exports only a model that has been called
        whole.export(str(path), format=format, verbose=False)
