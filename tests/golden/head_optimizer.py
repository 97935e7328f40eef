"""Makes head_optimizer.keras, as the first version of HeadOptimizer was saved.

Its state is there twice, and the config has no ratios. `head_optimizer.npz` holds the data,
and the weights after two more epochs. It is not made again when the package changes.
"""

import os
import pathlib

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np

import tfembloss

FOLDER = pathlib.Path(__file__).parent


def main():
    """Trains a classifier two steps, saves it, and trains it on."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[4, 3]).astype("float32"), np.arange(4) % 3
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, name="dense")])
    model = tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(3))
    head_optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(
        keras.optimizers.Adam(0.05),
        tfembloss.losses.ArcFaceLoss(scale=8.0),
        head_optimizer=head_optimizer,
    )
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(x, y, **options)
    model.save(FOLDER / "head_optimizer.keras")
    model.fit(x, y, **options)
    weights = {f"weight_{i}": v.numpy() for i, v in enumerate(model.weights)}
    np.savez(FOLDER / "head_optimizer.npz", x=x, y=y, **weights)


if __name__ == "__main__":
    main()
