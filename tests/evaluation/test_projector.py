"""What is written for TensorBoard's projector."""

import numpy as np
import pytest
import tensorflow as tf

from tfembloss.evaluation import tensorboard_projector


def test_what_is_written(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=[5, 3])
    images = np.arange(5 * 2 * 3).reshape(5, 2, 3, 1).astype("uint8")
    texts = ["one\ttwo", b"three", "", "fo\nur", "five"]
    tensorboard_projector(tmp_path / "new", embeddings, [1, 2, 1, 2, 1], texts, images)
    folder = tmp_path / "new"
    found = np.loadtxt(folder / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(found, embeddings, rtol=1e-5)
    lines = (folder / "metadata.tsv").read_text("utf-8").split("\n")
    assert lines == [
        "text\tlabel", "one two\t1", "three\t2", "(empty)\t1", "fo ur\t2", "five\t1", "",
    ]  # fmt: skip
    sprite = tf.io.decode_png((folder / "sprite.png").read_bytes()).numpy()
    assert sprite.shape == (6, 9, 1)
    np.testing.assert_array_equal(sprite[2:4, 3:6], images[4])
    np.testing.assert_array_equal(sprite[2:4, 6:9], 0)
    config = (folder / "projector_config.pbtxt").read_text("utf-8")
    assert "single_image_dim: 3\n    single_image_dim: 2" in config
    assert 'tensor_path: "embeddings.tsv"' in config


def test_an_empty_text_keeps_its_line(tmp_path):
    tensorboard_projector(tmp_path, np.eye(3), texts=["a", "", "c"])
    assert (tmp_path / "metadata.tsv").read_text("utf-8") == "a\n(empty)\nc\n"


def test_one_column_has_no_header(tmp_path):
    tensorboard_projector(tmp_path, np.eye(2), ["a", "b"])
    assert (tmp_path / "metadata.tsv").read_text("utf-8") == "a\nb\n"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("one label for each of 2", [["a"]]),
        ("one text for each of 2", [None, ["a"]]),
        ("one image for each of 2", [None, None, np.zeros([1, 2, 2, 1])]),
        ("Expected images", [None, None, np.zeros([2, 2, 2])]),
        ("Make them smaller", [None, None, np.zeros([2, 5000, 1, 1], "uint8")]),
    ],
)
def test_bad_arguments_are_named(tmp_path, message, arguments):
    with pytest.raises(ValueError, match=message):
        tensorboard_projector(tmp_path / "new", np.eye(2), *arguments)
    assert not (tmp_path / "new").exists()
