"""Embedding losses for Keras and TensorFlow, and tools to train with them.

Data flows through the modules in this order: `data` and `text` feed `models`, whose
embeddings are gathered over `replicas`, compared by `distances`, selected by `masks` and
`miners`, and reduced by `losses`. `search`, `evaluation` and `export` use the trained
model, and `synthesis` generates data for the next training with it.

`jit_compile=True` together with a distribution strategy is not supported, which is a limit
of Keras and TensorFlow.
"""

import importlib.metadata
import os

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
)

__version__ = importlib.metadata.version("tfembloss")

__all__ = [
    "ContrastiveTensionModel",
    "CrossEncoder",
    "DenoisingAutoEncoder",
    "DualEncoder",
    "EmbeddingClassifier",
    "EmbeddingModel",
    "callbacks",
    "data",
    "distances",
    "evaluation",
    "export_encoder",
    "layers",
    "losses",
    "miners",
    "models",
    "search",
    "synthesis",
    "text",
]
