"""Time and memory of the losses on lists of documents, beside sentence-transformers.

    python list_losses.py [--out FILE] [--only REGEX] [--sizes B ...] [--peer-python PATH]

A cell is one loss on B lists of L documents with scores [B, L] and grades 0 to 4: its value
and its gradient with respect to the scores. The peer's losses call a model of pairs; here
it is a stub that returns the given scores, in one mini-batch.

See README.md for the rest.
"""

import harness
import numpy as np
from harness import Layout, Loss
from peers import list_loss

LENGTHS = (64, 512)


def ours(name, **options):
    """What makes a loss of tfembloss."""
    return lambda t: getattr(t.losses, name)(**options)


def batch(num_lists, length):
    """Grades and scores that agree with them in part."""
    rng = np.random.default_rng(0)
    grades = rng.integers(5, size=[num_lists, length]).astype("float32")
    return grades, (0.3 * grades + rng.normal(size=grades.shape)).astype("float32")


LAYOUTS = {
    f"L={length}": Layout([256], lambda rows, length=length: batch(rows, length))
    for length in LENGTHS
}
SORTED = {"respect_input_order": False}
LOSSES = {
    title: Loss(ours(name, **options), list_loss(name, **options), list(LAYOUTS))
    for title, name, options in (
        ("ListNetLoss", "ListNetLoss", {}),
        ("ListMLELoss", "ListMLELoss", {}),
        ("ListMLELoss, sorted", "ListMLELoss", SORTED),
        ("PListMLELoss", "PListMLELoss", {}),
        ("LambdaLoss", "LambdaLoss", {}),
        ("LambdaLoss, k=10", "LambdaLoss", {"k": 10}),
        ("RankNetLoss", "RankNetLoss", {}),
        ("ADRMSELoss", "ADRMSELoss", {}),
    )
}

if __name__ == "__main__":
    harness.main(__doc__, LOSSES, LAYOUTS)
