"""Runs of distributed/train.py: on several replicas, in processes of their own."""

import os
import pathlib
import subprocess
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).parent / "distributed" / "train.py"


class Run:
    """One process, begun at once, and what it writes."""

    def __init__(self, folder, num_replicas, *options, **environment):
        folder.mkdir(exist_ok=True)
        self.result, self.log = folder / "result.npz", folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(SCRIPT),
                    str(self.result),
                    str(num_replicas),
                    *options,
                ],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def finish(self):
        """Waits for the end; arrays by name, if this process wrote them."""
        code = self.process.wait(timeout=900)
        assert code == 0, self.log.read_text()[-5000:]
        return dict(np.load(self.result)) if self.result.exists() else None
