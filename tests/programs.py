"""A loss's step, its value and gradient, as the program that XLA compiles."""

import re

import tensorflow as tf

# What a TPU's program cannot have: calls of the host, lengths that depend on values.
HOST = re.compile(r"\b(infeed|outfeed|send|recv|custom-call)\(|\[[\d,]*<=\d")


def step(loss):
    """`(y_true, y_pred) -> value, gradient`, to be compiled for the shapes that come."""

    @tf.function(jit_compile=True, autograph=False)
    def value_and_gradient(y_true, y_pred):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred)
        return value, tape.gradient(value, y_pred)

    return value_and_gradient


def lowered(loss, y_true, y_pred, stage="hlo"):
    """The program of these tensors' shapes: text, or bytes with "hlo_serialized"."""
    return step(loss).experimental_get_compiler_ir(y_true, y_pred)(stage=stage)


def arguments(program):
    """The types of what a program takes, `f32[9,6]`.

    What determines a shape or the place of a slice is none of them: it is a constant, and
    the program is compiled anew for each of its values.
    """
    found = re.search(r"entry_computation_layout={\((.*?)\)->", program)[1]
    return re.findall(r"(\w+\[[\d,]*\])", found)


def of_host(program):
    """The instructions of a program's text that a TPU could not run."""
    return [line.strip() for line in program.splitlines() if HOST.search(line)]
