"""Trained encoders as SavedModels that serve without this package."""

import numbers
import pathlib
import tempfile

import keras
import tensorflow as tf

from tfembloss.distances import l2_normalize
from tfembloss.models import DualEncoder, EmbeddingModel


def export_encoder(model, path, normalize=True, dimensions=None):
    """Writes a model's encoder, its preprocessor inside, as a SavedModel.

    With a preprocessor of texts, the signature `serving_default` maps `text`, strings
    `[rows]`, to `embedding`, float32 `[rows, D]`. Without one it maps the encoder's own
    input. To serve it takes `import tensorflow`, and `import tensorflow_text` for the
    tokenizer, but nothing of tfembloss or of the model's Python code.

    The folder is written whole and then moved into place: if that fails, what stood
    there before still stands.

    Args:
        model: an `EmbeddingModel`, or any Keras model from inputs to embeddings.
        path: local folder to write; an earlier export there is replaced.
        normalize: if true, embeddings have length 1, so that a dot product is the cosine.
        dimensions: k, to export the first k dimensions only, 1 to D; of a model trained
            with `tfembloss.losses.MatryoshkaLoss`.

    Raises:
        ValueError: `path` is a file, or a folder of something else; there is no
            preprocessor and the encoder's inputs are not known; `dimensions` is out of
            range; or the model has two towers.

    Example:

    >>> import numpy as np, tempfile
    >>> model = keras.Sequential([keras.Input([3], name="x"), keras.layers.Dense(2)])
    >>> path = tempfile.mkdtemp() + "/encoder"
    >>> export_encoder(model, path)
    >>> serve = tf.saved_model.load(path).signatures["serving_default"]
    >>> np.linalg.norm(serve(x=tf.ones([1, 3]))["embedding"]).round(4).item()
    1.0
    """
    if "://" in str(path):
        raise ValueError(
            f"Expected a local folder. Received: path={str(path)!r}. Export to a local "
            "folder, then copy it."
        )
    path = pathlib.Path(path).expanduser().resolve()
    exported = (path / "saved_model.pb").exists()
    if path.exists() and not exported and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(
            "Expected a folder to write, a new one or that of an earlier export. "
            f"Received: path={str(path)!r}, which is something else: choose another, or "
            "remove it."
        )
    if isinstance(model, DualEncoder):
        raise ValueError(
            "Expected one encoder. Received a DualEncoder: export each tower, as in "
            f'export_encoder(model.towers["{next(iter(model.towers))}"], path).'
        )
    encoder, preprocessor = model, None
    if isinstance(model, EmbeddingModel):
        encoder, preprocessor = model.encoder, model.preprocessor

    def embed(x):
        x = x if preprocessor is None else preprocessor(x)
        embedding = tf.cast(encoder(x, training=False), tf.float32)  # [rows, D]
        if dimensions is not None:
            embedding = embedding[:, : _check_dimensions(dimensions, embedding.shape[1])]
        return {"embedding": l2_normalize(embedding) if normalize else embedding}

    text = tf.TensorSpec([None], tf.string, name="text")
    signature = _input_specs(encoder) if preprocessor is None else text
    archive = keras.export.ExportArchive()
    archive.track(encoder)
    if isinstance(preprocessor, (tf.Module, keras.layers.Layer)):
        archive.track(preprocessor)  # its tables and variables
    archive.add_endpoint("serving_default", embed, input_signature=[signature])

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        new, old = pathlib.Path(folder, "new"), pathlib.Path(folder, "old")
        archive.write_out(str(new), verbose=False)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def _check_dimensions(dimensions, dim):
    if isinstance(dimensions, numbers.Integral) and 1 <= dimensions <= dim:
        return dimensions
    raise ValueError(
        f"`dimensions` must be a whole number from 1 to {dim}, the encoder's. Received: "
        f"dimensions={dimensions!r}"
    )


def _input_specs(encoder):
    """The encoder's own input: one tensor, or a dict of them by name."""
    inputs = getattr(encoder, "inputs", None)
    if not inputs:
        raise ValueError(
            "Expected an encoder whose inputs are known: a functional or Sequential model "
            f"with keras.Input. Received: {encoder!r}. Wrap it: "
            "keras.Sequential([keras.Input(shape), encoder])."
        )
    specs = {x.name: tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in inputs}
    return specs if len(specs) > 1 else next(iter(specs.values()))
