"""Image encoders of keras-hub's backbones, and the preprocessor of their images."""

import keras
import tensorflow as tf

from tfembloss.checks import one_of
from tfembloss.config import Configurable
from tfembloss.layers.pooling import Pooling

_CLASS_TOKENS = ("class_token", "cls_token", "class_embedding")


@keras.saving.register_keras_serializable("tfembloss")
class ImagePreprocessor(Configurable):
    """Resizes and scales images as a keras-hub image converter does.

    `tfembloss.EmbeddingModel.from_pretrained` makes it.

    Call arguments: images `[rows, height, width, C]`, of any one size, values 0 to 255.
    Returns what the encoder takes, float `[rows, height, width, C]`.

    Args:
        converter: `keras_hub.layers.ImageConverter`.
        channels: C, 3 for colors.

    Raises:
        ValueError: when called, these are no images of C channels.
    """

    def __init__(self, converter, channels=3):
        self.converter = converter
        self.channels = channels

    @property
    def input_signature(self):
        """The images that an exported model takes, a `tf.TensorSpec`."""
        return tf.TensorSpec([None, None, None, self.channels], tf.uint8, "images")

    def __call__(self, images):
        """Returns the encoder's input."""
        images = tf.convert_to_tensor(images)
        expected = self.input_signature.shape
        if images.dtype == tf.string or not images.shape.is_compatible_with(expected):
            shape = images.shape
            shape = "unknown" if shape.rank is None else f"{tuple(shape)}"
            raise ValueError(
                f"Expected images of shape [rows, height, width, {self.channels}], values "
                f"0 to 255. Received: shape={shape}, dtype={images.dtype.name}. "
                f"{_mend(images, self.channels)}"
            )
        # Outside of a graph, a converter would round resized bytes to bytes again.
        images = tf.cast(tf.ensure_shape(images, expected), tf.float32)
        images = self.converter(images)
        return tf.ensure_shape(images, [None, *_size(self.converter), self.channels])


def _mend(images, channels):
    if images.dtype == tf.string:
        return "This is a model of images: read and decode their files first."
    if channels == 3 and (images.shape.rank == 3 or images.shape[-1:] == [1]):
        return (
            "tf.image.grayscale_to_rgb makes colors of gray images [rows, height, width, "
            "1], and a dataset of single images needs .batch(...)."
        )
    return "Images are arrays of bytes or floats, the channels last."


def _size(converter):
    return converter.image_size or (None, None)


def image_preprocessor(converter, images):
    """Returns a preprocessor for an encoder of symbolic `images`; of a function, itself.

    Args:
        converter: a keras-hub image converter, a preprocessor with one, any function, or
            None.
        images: the encoder's symbolic input.
    """
    converter = getattr(converter, "image_converter", None) or converter
    if not hasattr(converter, "image_size"):
        return converter
    size = tuple(images.shape[1:3])
    if converter.image_size is None and None not in size:
        config = {**converter.get_config(), "image_size": size}
        converter = type(converter).from_config(config)
    known = zip(_size(converter), size, strict=True)
    if any(wanted not in (None, given) for given, wanted in known):
        raise ValueError(
            f"Expected an image converter to the backbone's size, image_size={size}. "
            f"Received: image_size={converter.image_size}."
        )
    return ImagePreprocessor(converter, images.shape[3])


def image_outputs(backbone, pooling=None):
    """Returns symbolic images `[B, H, W, C]` and embeddings `[B, D]` of a backbone.

    Args:
        backbone: a keras-hub backbone of images, or of images and texts.
        pooling: a mode of `tfembloss.layers.Pooling`; None for the backbone's own: the
            pooled output or projection if it has one, else the class token if it has one,
            else the mean over all places.
    """
    inputs = backbone.input
    given = inputs["images"] if isinstance(inputs, dict) else inputs
    images = keras.Input(given.shape[1:], name="images")
    if hasattr(backbone, "get_vision_embeddings"):
        x = backbone.get_vision_embeddings(images)
    else:
        x = backbone({"images": images} if isinstance(inputs, dict) else images)
    if len(x.shape) == 2:
        check_is_pooled(backbone, pooling)
        return images, x
    if getattr(backbone, "data_format", None) == "channels_first":
        raise ValueError(
            "Expected a backbone of data_format='channels_last'. Received: "
            f"{type(backbone).__name__} of 'channels_first'."
        )
    if len(x.shape) == 4:
        pooling = one_of("pooling", pooling or "mean", ["mean", "max"])
        x = keras.layers.Reshape((-1, x.shape[-1]), name="places")(x)
    elif pooling is None:
        has_class = any(weight.name in _CLASS_TOKENS for weight in backbone.weights)
        pooling = "cls" if has_class else "mean"
    return images, Pooling(pooling, name="pooling")(x, keras.ops.ones_like(x[:, :, 0]))


def check_is_pooled(backbone, pooling):
    """Raises ValueError if another pooling is asked of a backbone that pools itself."""
    if pooling is not None:
        raise ValueError(
            f"Expected pooling=None, as a {type(backbone).__name__} returns pooled "
            f"embeddings. Received: pooling={pooling!r}"
        )
