"""Every loss is a program of static shapes without the host, as a TPU needs it."""

import pytest
import tensorflow as tf
from cases import CASES, ONE_OF_EACH_LOSS
from programs import lowered, of_host


@pytest.mark.parametrize("name", ONE_OF_EACH_LOSS)
def test_every_loss_lowers_with_static_shapes(name):
    y_true, y_pred = CASES[name].inputs(9)
    program = lowered(
        CASES[name].make(), tf.constant(y_true), tf.constant(y_pred, "float32")
    )
    assert program.startswith("HloModule")
    assert of_host(program) == []


def _of_values(_, x):
    """A loss of as many numbers as are positive."""
    return tf.reduce_mean(tf.boolean_mask(x, x > 0) ** 2)


def test_lengths_that_depend_on_values_are_found():
    assert of_host(lowered(_of_values, tf.zeros(3), tf.constant([1.0, -1.0, 2.0])))


def test_a_loss_on_strings_does_not_lower():
    def loss(_, x):
        return tf.strings.to_number(tf.strings.as_string(x))

    with pytest.raises(ValueError, match=r"AsString|StringToNumber"):
        lowered(loss, tf.zeros(3), tf.zeros(3))
