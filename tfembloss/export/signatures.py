"""The inputs of an exported model: names, shapes and dtypes, and checks in its graph."""

import re
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfembloss.models import CrossEncoder
from tfembloss.models.encoder_model import EncoderModel
from tfembloss.models.errors import said

_WITH_ENCODER = (EncoderModel, CrossEncoder)


class Inputs(NamedTuple):
    """The inputs of an exported model.

    Args:
        specs: dict of a name to a `tf.TensorSpec` of that name, in the order of the leaves
            of `structure`.
        structure: the nested structure that the model's function takes; its leaves are
            ignored.
    """

    specs: dict
    structure: Any

    def packed(self, tensors):
        """Packs tensors into the structure that the model's function takes."""
        return tf.nest.pack_sequence_as(self.structure, list(tensors))


def reason(error):
    """Returns an error's message in one line."""
    return " ".join(said(error).split())[:200]


def preprocessor_of(model):
    """Returns a model's preprocessor, or None."""
    return model.preprocessor if isinstance(model, _WITH_ENCODER) else None


def inputs_of(model, input_signature=None):
    """Returns the `Inputs` of a model or its preprocessor. Raises ValueError if unknown."""
    preprocessor = preprocessor_of(model)
    if input_signature is not None:
        return _given(model, preprocessor, input_signature)
    if preprocessor is not None:
        return _of_preprocessor(model, preprocessor)
    encoder = model.encoder if isinstance(model, _WITH_ENCODER) else model
    if getattr(encoder, "inputs", None):
        return _of_structure(_symbolic(encoder))
    raise ValueError(
        "Expected an encoder whose inputs are known: a functional or Sequential model "
        f"with keras.Input. Received: {encoder!r}. Wrap it: "
        "keras.Sequential([keras.Input(shape), encoder]); or pass "
        "input_signature=tf.TensorSpec([None, 3], tf.float32, name='x')."
    )


def served(inputs, function):
    """Returns a `tf.function` of the inputs, a tensor or a dict by name, that checks them.

    Returns:
        The function, traced first for the inputs, as Keras exports the first trace as the
        signature, and then for any shapes; and the first trace.
    """

    def serve(x):
        tensors = x if isinstance(x, dict) else dict.fromkeys(inputs.specs, x)
        tensors = [_checked(tensors[name], spec) for name, spec in inputs.specs.items()]
        if len(tensors) > 1:
            tensors = _of_equal_rows(tensors, list(inputs.specs))
        return function(inputs.packed(tensors))

    def traced(shapes):
        specs = {
            name: tf.TensorSpec(shape, inputs.specs[name].dtype, name)
            for name, shape in shapes.items()
        }
        argument = specs if len(specs) > 1 else specs.popitem()[1]
        return serve.get_concrete_function(argument)

    serve = tf.function(serve, autograph=False)
    signature = traced({name: spec.shape for name, spec in inputs.specs.items()})
    traced(dict.fromkeys(inputs.specs))  # so that errors are those of the check
    return serve, signature


# The check in the graph. TensorFlow does not check shapes when a signature is called, and
# it trusts the static shapes in a graph, so that it would remove a check against them.


def _checked(tensor, spec):
    """Returns the tensor, with an assertion that it has the spec's shape."""
    tensor = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tf.TensorShape(None))
    shape = tf.shape(tensor, out_type=tf.int64)
    rank = spec.shape.rank
    free = tf.fill([rank], tf.constant(-1, tf.int64))
    dims = tf.constant([-1 if d is None else d for d in spec.shape], tf.int64, [rank])
    as_expected = (dims < 0) | (dims == tf.concat([shape, free], axis=0)[:rank])
    message = (
        f"Expected {spec.name}: {spec.dtype.name} of shape {_shown(spec)}. "
        "Received: a tensor of shape"
    )
    ok = (tf.size(shape) == rank) & tf.reduce_all(as_expected)
    with tf.control_dependencies([tf.debugging.Assert(ok, [message, shape], summarize=9)]):
        return tf.ensure_shape(tf.identity(tensor), spec.shape)


def _of_equal_rows(tensors, names):
    """Returns the tensors, with an assertion that they have equal numbers of rows."""
    rows = tf.stack([tf.shape(tensor, out_type=tf.int64)[0] for tensor in tensors])
    message = f"Expected equal numbers of rows of {', '.join(names)}. Received rows:"
    ok = tf.reduce_all(rows == rows[0])
    with tf.control_dependencies([tf.debugging.Assert(ok, [message, rows], summarize=99)]):
        return [tf.identity(tensor) for tensor in tensors]


def _shown(spec):
    dims = ["rows" if spec.shape[0] is None else str(spec.shape[0])]
    return f"[{', '.join(dims + ['any' if d is None else str(d) for d in spec.shape[1:]])}]"


# Inputs that are known.


def _symbolic(model):
    """Returns a Keras model's symbolic inputs; a Sequential has one, and no `input`."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _of_structure(structure, default=None):
    """Returns inputs from a nested structure of specs or of Keras's symbolic tensors."""
    flat = [_as_spec(leaf) for leaf in tf.nest.flatten(structure)]
    names = [spec.name or default or "inputs" for spec in flat]
    if default and len(flat) == 1 and _AUTOMATIC_NAME.fullmatch(names[0]):
        names = ["text" if flat[0].dtype == tf.string else default]
    if isinstance(structure, dict) and not any(map(tf.nest.is_nested, structure.values())):
        names = [str(name) for name in sorted(structure)]  # in the order of tf.nest
    names = [re.sub(r"\W|^(?=\d|_)|^self$", "_", name, flags=re.ASCII) for name in names]
    names = [f"input{name}" if name.startswith("_") else name for name in names]
    if len(set(names)) < len(names):
        raise ValueError(
            "Expected inputs with different names, as keras.Input(shape, name='x') or "
            f"tf.TensorSpec(shape, dtype, name='x'). Received: {names}"
        )
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name)
        for name, spec in zip(names, flat, strict=True)
    }
    return Inputs(specs, structure)


_AUTOMATIC_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?|inputs")


def _as_spec(leaf):
    """Converts a spec or a symbolic tensor to a `tf.TensorSpec`."""
    is_spec = isinstance(leaf, tf.TensorSpec | keras.InputSpec | keras.KerasTensor)
    shape = tf.TensorShape(leaf.shape) if is_spec else None
    if not is_spec or not shape.rank or getattr(leaf, "sparse", False):
        raise ValueError(
            "Expected dense inputs whose first axis is rows, as "
            "tf.TensorSpec([None, 3], tf.float32, name='x') or keras.InputSpec. Received: "
            f"{leaf!r}"
        )
    return tf.TensorSpec(shape, leaf.dtype or keras.config.floatx(), leaf.name)


def _given(model, preprocessor, signature):
    """Returns the inputs that `input_signature` describes."""
    if isinstance(signature, list | tuple) and len(signature) == 1:
        signature = signature[0]
    if not isinstance(model, CrossEncoder) or preprocessor is None:
        return _of_structure(signature, default="inputs")
    columns = signature if isinstance(signature, dict | list | tuple) else [signature]
    if len(columns) != 2:
        raise ValueError(
            "Expected input_signature of the two columns of a CrossEncoder, a tuple or a "
            f"dict. Received: {signature!r}"
        )
    if not isinstance(columns, dict):
        columns = {
            getattr(column, "name", None) or name: column
            for name, column in zip(("first", "second"), columns, strict=True)
        }
    flat = [_as_spec(column) for column in columns.values()]
    specs = {
        n: tf.TensorSpec(s.shape, s.dtype, n) for n, s in zip(columns, flat, strict=True)
    }
    return Inputs(specs, tuple(columns))


# The input of a preprocessor: its own if known, else the first candidate that it accepts.


def _of_preprocessor(model, preprocessor):
    if isinstance(model, CrossEncoder):
        names = ("first", "second")
        text = {name: tf.TensorSpec([None], tf.string, name) for name in names}
        candidates = [Inputs(text, names)]
    else:
        candidates = list(_candidates(model, preprocessor))
    errors = []
    for inputs in candidates:
        try:
            _check_takes(model, inputs)
            return inputs
        except Exception as error:  # of any kind: it is the user's own function
            errors.append(f"{_listed(inputs)}: {reason(error)}")
            if isinstance(error, _UnknownDtypeError):
                break
    raise ValueError(
        "Expected a preprocessor whose input can be inferred: strings [rows], the inputs "
        "of the encoder, or those of a Keras model with keras.Input. Otherwise pass "
        "input_signature=tf.TensorSpec([None, None, None, 3], tf.uint8, name='image'). "
        f"Received: {preprocessor!r}, which was tried on {'; on '.join(errors)}"
    )


def _listed(inputs):
    return ", ".join(f"{s.dtype.name} {_shown(s)}" for s in inputs.specs.values())


def _candidates(model, preprocessor):
    """Yields the inputs that a preprocessor of one column may have, the likeliest first."""
    encoder = _input_spec(model.encoder)
    name = "inputs"
    if encoder is not None and not _AUTOMATIC_NAME.fullmatch(encoder.name or "inputs"):
        name = encoder.name
    if isinstance(preprocessor, keras.Model) and getattr(preprocessor, "inputs", None):
        yield _of_structure(_symbolic(preprocessor), default=name)
        return
    if isinstance(getattr(preprocessor, "input_signature", None), tf.TensorSpec):
        yield _of_structure(preprocessor.input_signature)
        return
    yield _of_structure(tf.TensorSpec([None], tf.string, "text"))
    if encoder is None:
        return
    dtypes = [encoder.dtype]
    if encoder.dtype.is_floating:
        dtypes.append(tf.uint8)
    for dtype in dtypes:
        if encoder.shape.rank > 2:  # images of any size, which it may resize
            sizes = [None] * (encoder.shape.rank - 1)
            shape = [*sizes, encoder.shape[-1]]
            yield _of_structure(tf.TensorSpec(shape, dtype, name))
        yield _of_structure(tf.TensorSpec(encoder.shape, dtype, name))


def _input_spec(encoder):
    """Returns the spec of an encoder's single numeric input, or None."""
    structure = _symbolic(encoder) if getattr(encoder, "inputs", None) else None
    if not isinstance(structure, keras.KerasTensor):
        return None
    spec = _as_spec(structure)
    return None if spec.dtype == tf.string else spec


def _check_takes(model, inputs):
    """Raises an error if the preprocessor cannot take the inputs."""
    prepare = tf.function(model.encoder_inputs)
    function = prepare.get_concrete_function(inputs.packed(inputs.specs.values()))
    made, wanted = function.structured_outputs, _input_spec(model.encoder)
    strings = all(spec.dtype == tf.string for spec in inputs.specs.values())
    if any(
        node.type == "Cast" and node.inputs[0].dtype == tf.string
        for node in function.graph.get_operations()
    ):
        raise ValueError("strings are not numbers")
    if wanted is None or not tf.is_tensor(made) or len(inputs.specs) > 1:
        return
    fits = wanted.shape.is_compatible_with(made.shape) and made.dtype != tf.string
    known = (
        fits
        and made.shape.rank is not None
        and all(
            w is None or m is not None
            for w, m in zip(wanted.shape[1:], made.shape[1:], strict=True)
        )
    )
    if not fits or not (known or strings or isinstance(model.preprocessor, keras.Model)):
        raise ValueError(f"it returns {made.dtype.name} {made.shape}, not {wanted.shape}")
    (spec,) = inputs.specs.values()
    if spec.dtype != tf.string:
        _check_runs(prepare, spec, wanted)


def _check_runs(prepare, spec, wanted):
    """Raises an error if it does not take numbers of these shapes, or depends on dtype."""
    dims = zip(spec.shape[1:], wanted.shape[1:], strict=True)
    shape = [2, *(own or encoder_s or 8 for own, encoder_s in dims)]
    values = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    result = prepare(tf.cast(values, spec.dtype))
    if not spec.dtype.is_floating:
        return
    try:
        of_bytes = prepare(tf.constant(values))
    except Exception:  # it does not take bytes
        return
    if not np.allclose(of_bytes, result, rtol=1e-2, atol=1e-2):
        raise _UnknownDtypeError("bytes and the same values as floats differ in it")


class _UnknownDtypeError(ValueError):
    """A preprocessor treats bytes and floats differently, so the dtype is unknown."""
