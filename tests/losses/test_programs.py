"""Every loss is a program of static shapes without the host, as a TPU needs it."""

import pytest
import tensorflow as tf
from cases import CASES, ONE_OF_EACH_LOSS
from programs import arguments, lowered, of_host


@pytest.mark.parametrize("name", ONE_OF_EACH_LOSS)
def test_every_loss_lowers_with_static_shapes(name):
    y_true, y_pred = CASES[name].inputs(9)
    program = lowered(
        CASES[name].make(), tf.constant(y_true), tf.constant(y_pred, "float32")
    )
    assert arguments(program)[-1] == "f32" + str(list(y_pred.shape)).replace(" ", "")
    assert of_host(program) == []


def _of_values(_, x):
    """A loss of as many numbers as are positive."""
    return tf.reduce_mean(tf.boolean_mask(x, x > 0) ** 2)


def test_lengths_that_depend_on_values_are_found():
    assert of_host(lowered(_of_values, tf.zeros(3), tf.constant([1.0, -1.0, 2.0])))


def _at_a_place(_, x):
    """A loss of the row with the largest number, found by an index."""
    return tf.reduce_mean(x[tf.argmax(x[:, 0])])


def test_what_is_compiled_for_each_value_is_found():
    assert arguments(lowered(_at_a_place, tf.zeros(3), tf.ones([3, 2]))) == ["f32[3]"]


def test_a_loss_on_strings_does_not_lower():
    def loss(_, x):
        return tf.strings.to_number(tf.strings.as_string(x))

    with pytest.raises(ValueError, match=r"AsString|StringToNumber"):
        lowered(loss, tf.zeros(3), tf.zeros(3))
