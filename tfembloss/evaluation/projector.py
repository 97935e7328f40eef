"""Files for TensorBoard's projector, which turns embeddings around in a browser."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from tfembloss.checks import shown
from tfembloss.search import as_embeddings, check_finite

_LARGEST_SPRITE = 8192  # pixels of a side that browsers show


def tensorboard_projector(folder, embeddings, labels=None, texts=None, images=None):
    """Writes embeddings for TensorBoard's projector: `tensorboard --logdir FOLDER`.

    Args:
        folder: the folder to write; of one with other files, those of a projector are
            replaced.
        embeddings: array `[N, D]`.
        labels: labels `[N]`, by which points can be coloured; or None.
        texts: texts `[N]`, which points show; or None.
        images: images `[N, H, W, 1]` or `[N, H, W, 3]`, uint8 or 0 to 1, which are drawn in
            place of points; or None.

    Raises:
        ValueError: numbers of rows differ, an embedding is not finite, or the images are
            too many for one picture of 8192 x 8192.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tensorboard_projector(folder, np.eye(2), ["a", "b"], ["one", "two"])
    >>> sorted(path.name for path in folder.iterdir())
    ['embeddings.tsv', 'metadata.tsv', 'projector_config.pbtxt']
    """
    embeddings = np.asarray(as_embeddings(embeddings, "embeddings"), "float32")
    check_finite(embeddings, "embeddings")
    columns = {"text": texts, "label": labels}
    columns = {name: list(of) for name, of in columns.items() if of is not None}
    for name, of in (columns | ({} if images is None else {"image": images})).items():
        if len(of) != len(embeddings):
            raise ValueError(
                f"Expected one {name} for each of {len(embeddings)} embeddings. Received: "
                f"{len(of)}."
            )
    sprite = None if images is None else _sprite(np.asarray(images))
    folder = pathlib.Path(os.fspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "embeddings.tsv", embeddings, "%.6g", "\t")
    config = ['  tensor_path: "embeddings.tsv"']
    if columns:
        rows = [
            "\t".join(map(_one_line, row)) for row in zip(*columns.values(), strict=True)
        ]
        header = ["\t".join(columns)] if len(columns) > 1 else []  # as TensorBoard expects
        (folder / "metadata.tsv").write_text("\n".join(header + rows) + "\n", "utf-8")
        config.append('  metadata_path: "metadata.tsv"')
    if sprite is not None:
        (folder / "sprite.png").write_bytes(tf.io.encode_png(sprite).numpy())
        height, width = np.shape(images)[1:3]
        config += [
            "  sprite {",
            '    image_path: "sprite.png"',
            f"    single_image_dim: {width}",
            f"    single_image_dim: {height}",
            "  }",
        ]
    text = "\n".join(["embeddings {", *config, "}"]) + "\n"
    (folder / "projector_config.pbtxt").write_text(text, "utf-8")


def _one_line(value):
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(value.split()) or "(empty)"  # TensorBoard leaves empty lines out


def _sprite(images):
    """Returns one picture of all images, row by row in a square."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype.kind not in "uif":
        raise ValueError(
            "Expected images [N, H, W, 1] or [N, H, W, 3]. Received: shape "
            f"{images.shape}, dtype {images.dtype}"
        )
    if images.dtype.kind == "f":
        images = np.clip(images * 255, 0, 255).round()
    num, height, width, channels = images.shape
    side = int(np.ceil(np.sqrt(num)))
    if side * max(height, width) > _LARGEST_SPRITE:
        raise ValueError(
            f"Expected images for one picture of {_LARGEST_SPRITE} x {_LARGEST_SPRITE}. "
            f"Received: {shown(num)} of {height} x {width}. Make them smaller, or take a "
            "part of them."
        )
    picture = np.zeros([side * side, height, width, channels], "uint8")
    picture[:num] = images
    picture = picture.reshape(side, side, height, width, channels).transpose(0, 2, 1, 3, 4)
    return picture.reshape(side * height, side * width, channels)
