"""The README.md of a saved encoder: what it is, how it was trained, how to load it."""

import functools
import json

import keras
import numpy as np


def card(encoder, preprocessor, loss=None, num_columns=None, metrics=None):
    """Returns the text of README.md. Raises ValueError if metrics are no numbers.

    Args:
        encoder: the saved encoder.
        preprocessor: its tokenizer.
        loss: the loss that the encoder was trained with, or None.
        num_columns: how many columns of texts it was trained on, or None.
        metrics: dict of a name to a number of the last evaluation, or None.
    """
    kind = json.loads(encoder.config)["model_type"]
    sections = [
        _HEAD,
        f"An encoder of texts, {kind}: {encoder.output.shape[-1]} dimensions, at most "
        f"{preprocessor.sequence_length} tokens.",
        _USE,
        _training(loss, num_columns),
        _table("Last evaluation", ("metric", "value"), _numbers(metrics or {})),
        _table("Prompts", ("name", "put before each text"), _texts(preprocessor.prompts)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


_HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- tfembloss
---

# Text embeddings"""

_USE = """In PyTorch and in Keras:

```python
from sentence_transformers import SentenceTransformer

embeddings = SentenceTransformer("this/folder").encode(["a text"])
```

```python
import tfembloss

embeddings = tfembloss.EmbeddingModel.from_pretrained("this/folder").predict(["a text"])
```"""


def _training(loss, num_columns):
    if loss is None:
        return ""
    text = f"## Training\n\nFine-tuned with tfembloss: `{_shown(loss)}`"
    if num_columns is None:
        return f"{text}."
    return f"{text}, on {num_columns} column{'s' * (num_columns > 1)} of texts."


def _shown(loss):
    """Returns the call that creates a loss, such as `CoSENTLoss(scale=20.0)`."""
    if isinstance(loss, dict):  # of several tasks
        return ", ".join(f"{name}: {_shown(of_task)}" for name, of_task in loss.items())
    if not isinstance(loss, keras.losses.Loss):
        return getattr(loss, "__name__", str(loss))
    left_out = ("name", "dtype", "reduction")
    config = {k: v for k, v in loss.get_config().items() if k not in left_out}
    arguments = (f"{name}={_value(value)}" for name, value in config.items())
    return f"{type(loss).__name__}({', '.join(arguments)})"


def _value(value):
    if not isinstance(value, dict):
        return repr(value)
    if "class_name" in value:
        return f"{value['class_name']}(...)"
    return "{" + ", ".join(f"{k!r}: {_value(part)}" for k, part in value.items()) + "}"


def _numbers(metrics):
    numbers = metrics.values() if isinstance(metrics, dict) else ["none"]
    if not all(isinstance(x, int | float | np.number) for x in numbers):
        raise ValueError(
            'Expected metrics as a dict of names to numbers, {"mrr@10": 0.62}. Received: '
            f"metrics={metrics!r:.200}"
        )
    return [(name, f"{float(value):.4g}") for name, value in metrics.items()]


def _texts(prompts):
    quoted = functools.partial(json.dumps, ensure_ascii=False)
    return [(name, f"`{quoted(text)}`") for name, text in prompts.items()]


def _table(title, head, rows):
    if not rows:
        return ""
    lines = [head, ("---", "---"), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])
