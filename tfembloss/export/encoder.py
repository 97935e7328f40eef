"""Exports trained encoders as SavedModels that can be served without this package."""

import functools
import gc

import keras
import numpy as np
import tensorflow as tf

from tfembloss.checks import integer, one_of
from tfembloss.distances import l2_normalize
from tfembloss.export import files, folders, signatures
from tfembloss.models import CrossEncoder, DualEncoder, EmbeddingModel, layerwise
from tfembloss.models.base import one_tensor
from tfembloss.models.encoder_model import EncoderModel
from tfembloss.pretrained import hub


def export_encoder(
    model,
    path,
    normalize=True,
    dimensions=None,
    input_signature=None,
    format="saved_model",
    num_layers=None,
):
    """Exports a model's encoder, including its preprocessor, as a SavedModel.

    The signature `serving_default` maps the inputs of the preprocessor, or those of the
    encoder if there is none, to `embedding`, float32 `[rows, D]`; for a `CrossEncoder` to
    `score`, float32 `[rows]` or `[rows, num_labels]`, the logits that `predict` returns.
    The input of a text preprocessor is `text`, strings `[rows]`; that of a `CrossEncoder`
    the two columns `first` and `second`. The inputs of a preprocessor that is a Keras model
    are its own, and those of any other function are the inputs of the encoder, images of
    any size if it resizes them.

    A model with `prompts` has one more signature for each, of the prompt's name, such as
    `query`; `serving_default` then puts the default prompt before each text, and if there
    is no default, `document`'s.

    The exported model checks its inputs: if their shape is wrong, as with a scalar or a
    matrix of strings, it raises an error. Serving requires `import tensorflow`, and
    `import tensorflow_text` for the tokenizer, but neither tfembloss nor the model's Python
    code. The preprocessor, including random layers in it, runs as in `predict`, with
    `training=False`.

    An earlier export is replaced in one step, when the new one is complete: if the process
    is killed, the folder contains one or the other.

    Args:
        model: an `EmbeddingModel` or `CrossEncoder`, a `keras_hub.models.TextEmbedder`, or
            any Keras model from inputs to embeddings. What only training needs, such as the
            head of an `EmbeddingClassifier`, is left out.
        path: local folder to write. An earlier export there is replaced, but a folder with
            other files is refused.
        normalize: whether to scale embeddings to length 1, so that a dot product is the
            cosine.
        dimensions: k, to export only the first k dimensions, 1 to D; for models trained
            with `tfembloss.losses.MatryoshkaLoss`.
        input_signature: the inputs of the exported model, if they cannot be inferred from
            the model: a `tf.TensorSpec` or `keras.InputSpec` whose first axis is rows, with
            a name to set that of the input; or a dict of them for a preprocessor or encoder
            that takes a dict; for a `CrossEncoder` a tuple of two, or a dict.
        format: `"saved_model"`; or `"onnx"` or `"litert"`, one file at `path` without the
            preprocessor, from the encoder's inputs (token ids) to embeddings. ONNX needs
            `pip install tf2onnx onnx`.
        num_layers: to export only the first blocks of the encoder, 0 to all; for models
            trained with `tfembloss.losses.AdaptiveLayerLoss`. None for all.

    Raises:
        ValueError: `path` is a file, or a folder that contains anything but an export; the
            model is not built, has two towers, or does not return embeddings `[rows, D]`;
            its inputs are not known; or the preprocessor runs Python code, such as
            `tf.py_function`.
        OSError: the folder cannot be written. Its content is unchanged.

    Example:

    >>> import numpy as np, tempfile
    >>> model = keras.Sequential([keras.Input([3], name="x"), keras.layers.Dense(2)])
    >>> path = tempfile.mkdtemp() + "/encoder"
    >>> export_encoder(model, path)
    >>> serve = tf.saved_model.load(path).signatures["serving_default"]
    >>> np.linalg.norm(serve(x=tf.ones([1, 3]))["embedding"]).round(4).item()
    1.0
    """
    one_of("format", format, ["saved_model", *files.FORMATS])
    path = folders.checked_path(path)
    model = EmbeddingModel(model) if hub.is_embedder(model) else model
    _check_model(model)
    if not isinstance(normalize, bool | np.bool_):
        raise ValueError(f"Expected normalize=True or False. Received: {normalize!r}")
    if isinstance(model, CrossEncoder) and dimensions is not None:
        raise ValueError(
            "`dimensions` is for embeddings, and a CrossEncoder gives scores. Received: "
            f"dimensions={dimensions!r}"
        )
    if num_layers is not None:
        model = _of_first_layers(model, num_layers)
    if format != "saved_model":
        if input_signature is not None:
            raise ValueError(
                f"Expected input_signature=None for format={format!r}, whose inputs are "
                f"those of the encoder. Received: input_signature={input_signature!r}"
            )
        files.export_file(model, path, format, normalize, dimensions)
        return
    folders.check_folder(path)
    with folders.replaced(path) as folder:
        endpoints = _endpoints(model, normalize, dimensions, input_signature)
        _write(model, endpoints, str(folder))


def _of_first_layers(model, num_layers):
    if isinstance(model, EncoderModel):
        if not type(model).call.__module__.startswith("tfembloss."):
            raise ValueError(
                "With num_layers, expected a model whose `call` is that of EmbeddingModel. "
                f"Received: {type(model).__name__}, with its own. Export its encoder."
            )
        encoder = layerwise.first_layers(model.encoder, num_layers)
        return EmbeddingModel(encoder, model.preprocessor)
    return layerwise.first_layers(model, num_layers)


def _endpoints(model, normalize, dimensions, input_signature):
    """Returns dict of a signature to the `tf.function` to export and its trace."""
    inputs = signatures.inputs_of(model, input_signature)
    has_preprocessor = signatures.preprocessor_of(model) is not None
    # By AutoGraph, as in tf.data.
    prepare = tf.function(model.encoder_inputs) if has_preprocessor else None

    @functools.partial(tf.function, autograph=False)
    def outputs(x):
        if isinstance(model, CrossEncoder):
            score = tf.cast(model(x, training=False), tf.float32)
            return {"score": tf.squeeze(score, 1) if model.num_labels == 1 else score}
        embedding = _embeddings(model, x)
        if dimensions is not None:
            embedding = embedding[
                :, : integer("dimensions", dimensions, 1, embedding.shape[1])
            ]
        return {"embedding": l2_normalize(embedding) if normalize else embedding}

    def endpoint(prompt):
        def serve(x):
            return outputs(x if prepare is None else prepare(x, **options))

        options = {} if prompt is None else {"prompt": prompt}
        return signatures.served(inputs, tf.function(serve, autograph=False))

    try:
        return {
            name: endpoint(prompt) for name, prompt in prompts_of_signatures(model).items()
        }
    except Exception as error:
        if input_signature is None:
            raise
        raise ValueError(
            "Expected an `input_signature` that the model takes. Received: "
            f"{input_signature!r} ({signatures.reason(error)})"
        ) from error


def prompts_of_signatures(model):
    """Returns dict of a signature's name to that of a prompt; None for the default."""
    prompts = getattr(model, "prompts", {})
    default = getattr(signatures.preprocessor_of(model), "default_prompt", None)
    if default is None and "document" in prompts:
        default = "document"
    return {"serving_default": default} | {name: name for name in prompts}


def _embeddings(model, x):
    """Computes embeddings `[rows, D]`, float32, as `predict` does for one column."""
    embed = model
    if isinstance(model, EncoderModel) and _is_ours(type(model).call):
        embed = model.encoder  # without what only training builds
    embedding = one_tensor(embed(x, training=False), rank=2)
    if not embedding.dtype.is_floating and not embedding.dtype.is_integer:
        raise ValueError(
            f"Expected embeddings of real numbers. Received: {embedding.dtype.name}"
        )
    return tf.ensure_shape(tf.cast(embedding, tf.float32), [None, None])


def _is_ours(method):
    return method.__module__.partition(".")[0] == __name__.partition(".")[0]


def _check_model(model):
    """Checks that this is a built model of one encoder."""
    if isinstance(model, DualEncoder):
        calls = " and ".join(
            f'export_encoder(model.towers["{name}"], path)' for name in model.towers
        )
        raise ValueError(
            "Expected one encoder. Received a DualEncoder. Export each tower to its own "
            f"folder, {calls}."
        )
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "Expected an EmbeddingModel, a CrossEncoder or a Keras model from inputs to "
            f"embeddings. Received: model={model!r}"
        )
    used = [model]
    if isinstance(model, EncoderModel | CrossEncoder):
        used = [model.encoder, *([model.score] if isinstance(model, CrossEncoder) else [])]
    if not all(layer.built for layer in used):
        raise ValueError(
            f"Expected a model with weights. Received: {model!r}, which is not built. "
            "Begin the encoder with keras.Input, as in "
            "keras.Sequential([keras.Input(shape), encoder]), or call fit or predict first."
        )


# The SavedModel.


def _write(model, endpoints, folder):
    """Writes the endpoints, pairs of a `tf.function` and its trace, and all they use."""
    traces = [trace for _, trace in endpoints.values()]
    for trace in traces:
        _check_no_python(trace)
    archive = keras.export.ExportArchive()
    archive.track(model.encoder if isinstance(model, EncoderModel) else model)
    for resource in _resources(traces):
        archive.track(resource)
    for name, (serve, _) in endpoints.items():
        archive.add_endpoint(name, serve)
    try:
        archive.write_out(folder, verbose=False)
    except tf.errors.OpError as error:  # the file system's: "node; path; what is wrong"
        raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error
    except AssertionError as error:
        raise ValueError(
            "Expected a model and a preprocessor whose variables and tables TensorFlow "
            f"can save. Received: {model!r} ({' '.join(str(error).split())[:300]})"
        ) from error


def _check_no_python(function):
    """Checks that a graph does not call Python code, which a SavedModel cannot store."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    python = {node.op for node in nodes} & {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
    if python:
        raise ValueError(
            "Expected a model and a preprocessor of TensorFlow operations only: a "
            "SavedModel does not store Python code, such as that of tf.py_function and "
            f"tf.numpy_function. Received: operations {sorted(python)}"
        )


def _resources(functions):
    """Returns the tables that traced functions use, wherever they are stored."""
    of_variables = {id(v.handle) for function in functions for v in function.variables}
    used = {
        id(tensor)
        for function in functions
        for tensor in function.captured_inputs
        if tensor.dtype == tf.resource and id(tensor) not in of_variables
    }
    kind = tf.saved_model.experimental.TrackableResource
    # A closure, a global or an attribute may hold them, so all objects are searched.
    everything = gc.get_objects() if used else []
    tables = [thing for thing in everything if issubclass(type(thing), kind)]
    return [t for t in tables if id(getattr(t, "_resource_handle", None)) in used]
