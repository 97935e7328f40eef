"""What Keras does not tell callbacks of the `fit` that calls them."""

import sys

import keras


def variables_of_fit(callback):
    """Returns the local variables of the `fit` that has called a callback.

    Callbacks cannot access the data of `fit` in another way.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and "epoch_iterator" in frame.f_locals:
            return frame.f_locals
        frame = frame.f_back
    raise ValueError(
        f"A {type(callback).__name__} works with keras.Model.fit. Received: a call from "
        "elsewhere, or from an unknown version of Keras "
        f"({keras.__version__})."
    )
