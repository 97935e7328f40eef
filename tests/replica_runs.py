"""Runs of distributed/train.py: on several replicas, in processes of their own."""

import pathlib

import numpy as np
import processes

SCRIPT = pathlib.Path(__file__).parent / "distributed" / "train.py"


class Run:
    """One process, begun at once, and what it writes."""

    def __init__(self, folder, num_replicas, *options, **environment):
        folder.mkdir(exist_ok=True)
        self.result, self.log = folder / "result.npz", folder / "log.txt"
        arguments = (self.result, num_replicas, *options)
        self.process = processes.start(SCRIPT, arguments, self.log, **environment)

    def finish(self):
        """Waits for the end; arrays by name, if this process wrote them."""
        self.process.join(timeout=900)
        assert self.process.exitcode == 0, self.log.read_text()[-5000:]
        return dict(np.load(self.result)) if self.result.exists() else None
