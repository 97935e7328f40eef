"""Embedding losses for Keras and TensorFlow, and tools to train with them.

| you want to | take |
|---|---|
| train an encoder on pairs, labels, scores or a teacher's outputs | `EmbeddingModel` |
| train it on two views of unlabeled rows, by a moving average of it | `MomentumModel` |
| train it with a head of class centers or labels of pairs | `EmbeddingClassifier` |
| train two towers, as of images and texts | `DualEncoder` |
| train it on texts alone | `ContrastiveTensionModel`, `DenoisingAutoEncoder` |
| train one encoder on several datasets, with a loss each | `MultiTaskModel` |
| score pairs of texts, read together | `CrossEncoder` |
| choose a loss, a miner, a head | `tfembloss.losses`, `tfembloss.miners`, \
`tfembloss.layers` |
| make token ids of texts | `tfembloss.text` |
| read files, make batches | `tfembloss.data` |
| make training data of texts | `tfembloss.synthesis` |
| train parts of a model at rates of their own | `tfembloss.optimizers` |
| search, and measure how good it is | `tfembloss.search`, `tfembloss.evaluation` |
| resume a training that was stopped | `tfembloss.callbacks` |
| serve an encoder without tfembloss | `export_encoder` |

>>> import keras, tfembloss
>>> encoder = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
>>> model = tfembloss.EmbeddingModel(encoder)
>>> model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
>>> pairs = keras.random.normal([16, 8]), keras.random.normal([16, 8])
>>> history = model.fit(pairs, verbose=0)
>>> model.predict(pairs[0], verbose=0).shape
(16, 4)

`jit_compile=True` together with a distribution strategy is not supported, which is a limit
of Keras and TensorFlow.
"""

import importlib.metadata
import os
import sys

# Keras imports its configured backend, and fails with that backend's own error if it is not
# installed, so this checks before Keras is imported.
_backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
if _backend == "tensorflow":
    import keras

    _backend = keras.backend.backend()
if _backend != "tensorflow":
    raise ValueError(
        "tfembloss works on Keras's TensorFlow backend only. Expected the backend "
        f"'tensorflow', received {_backend!r}. Set the environment variable "
        'KERAS_BACKEND=tensorflow (or "backend": "tensorflow" in '
        "~/.keras/keras.json) before Keras is first imported."
    )

from tfembloss import (  # noqa: E402
    callbacks,
    data,
    distances,
    evaluation,
    layers,
    losses,
    miners,
    models,
    optimizers,
    pretrained,
    reference,
    search,
    synthesis,
    text,
)
from tfembloss.export import export_encoder  # noqa: E402
from tfembloss.models import (  # noqa: E402
    ContrastiveTensionModel,
    CrossEncoder,
    DenoisingAutoEncoder,
    DualEncoder,
    EmbeddingClassifier,
    EmbeddingModel,
    MomentumModel,
    MultiTaskModel,
)

__version__ = importlib.metadata.version("tfembloss")

__all__ = [
    "ContrastiveTensionModel",
    "CrossEncoder",
    "DenoisingAutoEncoder",
    "DualEncoder",
    "EmbeddingClassifier",
    "EmbeddingModel",
    "MomentumModel",
    "MultiTaskModel",
    "callbacks",
    "data",
    "distances",
    "evaluation",
    "export_encoder",
    "layers",
    "losses",
    "miners",
    "models",
    "optimizers",
    "pretrained",
    "search",
    "synthesis",
    "text",
]

if "pdoc.doc" in sys.modules:  # which makes the API reference
    reference.set_up(sys.modules["pdoc.doc"])
