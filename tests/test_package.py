import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_another_keras_backend_is_refused(backend):
    done = subprocess.run(
        [sys.executable, "-c", "import tfembloss"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    message = done.stderr.strip().split("\n")[-1]
    assert message.startswith(
        "ValueError: tfembloss works on Keras's TensorFlow backend only"
    )
    assert f"received '{backend}'" in message and "KERAS_BACKEND=tensorflow" in message
