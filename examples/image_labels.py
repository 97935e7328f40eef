"""Embeddings of images that tell apart digits which training has not seen.

    python examples/image_labels.py                   # trains thrice, measures, draws: minutes
    python examples/image_labels.py --held-out 4 9    # with other digits held out

The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels. Two digits are held
out. An encoder learns from the labels of the other eight, once each with ArcFace, CosFace
and sub-centre ArcFace, and is measured, and drawn, on the images of the two.
"""

import argparse
import importlib.util
import math
import pathlib
import sys

import numpy as np
from search_api_docs import SAVED_MODELS

TURNS = 4


# The data.


def read_digits():
    """Images `[N, 8, 8, 1]` from 0 to 1, and the digit of each `[N]`."""
    if not importlib.util.find_spec("sklearn"):
        sys.exit('The images come with scikit-learn: pip install ".[examples]"')
    from sklearn import datasets

    found = datasets.load_digits()
    return (found.images / 16).astype("float32")[..., None], found.target


def image_encoder(dim=64, width=16):
    """A small convolutional network from images `[B, 8, 8, 1]` to embeddings `[B, dim]`."""
    import keras
    from keras import layers

    encoder = keras.Sequential([keras.Input([8, 8, 1], name="image")])
    # By up to a pixel, in training only: the digits' place says nothing.
    encoder.add(layers.RandomTranslation(0.125, 0.125, fill_mode="constant"))
    for factor in (1, 2, 2):
        encoder.add(layers.Conv2D(factor * width, 3, padding="same", use_bias=False))
        encoder.add(layers.BatchNormalization(momentum=0.9))
        encoder.add(layers.Activation("relu"))
        if factor == 1:
            encoder.add(layers.MaxPooling2D())
    encoder.add(layers.Flatten())
    encoder.add(layers.Dense(dim))
    return encoder
