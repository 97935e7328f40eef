"""Scripts in processes of their own, forked from one that has imported TensorFlow.

Importing it takes about four seconds, longer than most of the scripts. It may be forked as
long as none of its devices is used; each script then configures devices of its own.
"""

import gc
import multiprocessing
import os
import pathlib
import runpy
import sys

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tensorflow", "keras", "tfembloss"])


def start(script, arguments, log, **environment):
    """The process of `python script *arguments`, begun; it is killed with this one."""
    arguments = [str(argument) for argument in (script, *arguments)]
    process = _context.Process(target=_run, args=(arguments, log, environment), daemon=True)
    process.start()
    return process


def collect_garbage_rarely():
    """Leaves out the many objects of what is imported, and collects less often.

    Collections took a quarter of the time of a training on replicas.
    """
    gc.freeze()
    gc.set_threshold(20_000)


def _run(arguments, log, environment):
    with pathlib.Path(log).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    collect_garbage_rarely()
    sys.argv = arguments
    sys.path.insert(0, str(pathlib.Path(arguments[0]).parent))  # as Python does
    runpy.run_path(arguments[0], run_name="__main__")
