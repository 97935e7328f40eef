"""What the benchmarks have in common: processes that measure, and the table of them.

A script describes its losses and on what to measure them, and calls `main`. For each cell
it is started again as a worker, which makes the loss of one library, calls it and tells
what that took.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

PEERS = [
    "torch==2.13.0",
    "sentence-transformers==6.2.0",
    "pytorch-metric-learning==2.9.0",
    "datasets==5.2.0",
    "jax==0.10.2",
]
PACKAGES = {
    "ours": ["tfembloss", "tensorflow", "keras"],
    "peer": [package.split("==")[0] for package in PEERS],
}
DIM = 256
THREADS = 2
WARM_UPS = 2  # calls that are not timed: the first compiles
SETTINGS = {  # of the workers' environment
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTRAOP_THREADS": str(THREADS),
    "TF_NUM_INTEROP_THREADS": str(THREADS),
    "CUDA_VISIBLE_DEVICES": "-1",
}
START = 120  # seconds for a process to import, and to compile for a few rows
SLOW = 10  # seconds of a call, above which a process times one call only
FAST, MANY = 0.5, 100  # seconds and calls, below both of which it times more than --calls
ENOUGH = 7  # timed calls of a cell; the table marks cells with fewer


class Loss(NamedTuple):
    """A loss in both libraries.

    Args:
        ours: `(tfembloss, *weights) -> function`: of targets and embeddings, the value.
        peer: `(*weights) -> (function, parameters)`: of targets and a list of columns, the
            value, and what else to differentiate by. See `peers.py`. None without a peer.
        layouts: names of the batches to measure it on.
    """

    ours: Callable
    peer: Callable | None
    layouts: list[str]


class Layout(NamedTuple):
    """A kind of batch.

    Args:
        sizes: B, by default.
        batch: `B -> (targets, embeddings, *weights)`, arrays. Embeddings are `[B, D]`, or
            columns `[B, n, D]`; the weights are those that go with the loss.
    """

    sizes: list[int]
    batch: Callable


class Cell(NamedTuple):
    """One loss on one batch."""

    loss: str
    layout: str
    rows: int

    def __str__(self):
        return f"{self.loss}, {self.layout}, B={self.rows}"


def cells(losses, layouts, sizes, only):
    """Every cell, in the order of the table."""
    every = [
        Cell(name, layout, rows)
        for layout in layouts
        for name, loss in losses.items()
        if layout in loss.layouts
        for rows in sizes or layouts[layout].sizes
    ]
    return [cell for cell in every if re.search(only, str(cell))]


# The worker: one process, one cell, one library.


def our_step(make, batch, weights):
    """What makes tensors, and `(targets, embeddings) -> [value, *gradients]`."""
    import tensorflow as tf

    import tfembloss

    function = make(tfembloss, *weights)

    # Traced without B, as `fit` traces it.
    @tf.function(
        input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in batch],
        autograph=False,
    )
    def step(targets, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(targets, x)
        return [value, *tape.gradient(value, [x, *tape.watched_variables()])]

    return lambda *batch: [tf.constant(x) for x in batch], step


def peer_step(make, batch, weights):
    """The same of the peer, to which columns are separate tensors."""
    import torch

    torch.set_num_threads(THREADS)
    function, parameters = make(*weights)

    def tensors(targets, x):
        columns = [torch.from_numpy(column.copy()) for column in columns_of(x)]
        return torch.from_numpy(targets), [x.requires_grad_() for x in columns]

    def step(targets, columns):
        value = function(targets, columns)
        return [value.detach(), *torch.autograd.grad(value, [*columns, *parameters])]

    return tensors, step


def columns_of(x):
    """The columns `[B, D]` of `[B, n, D]`, or the array itself."""
    return np.moveaxis(x, 1, 0) if x.ndim == 3 else [x]


def memory(field, process="self"):
    """A field of the process's status in MB; None where there is no /proc."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def forget_the_past():
    """Gives freed memory back, starts the peak anew, and says what is held now, in MB."""
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    # Where it may not, the peak is that of the imports, if they took more.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def limit_memory(megabytes):
    """Lets allocations beyond so much more than now fail."""
    held = memory("VmSize")
    if held is not None:
        limit = int((held + megabytes) * 2**20)
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def work(make, library, small, path, calls, megabytes):
    """Prints a line of JSON when it is ready, after every call, and with the result."""
    tell = lambda **what: print(json.dumps(what), flush=True)  # noqa: E731
    with np.load(path) as data:
        targets, embeddings, *weights = data.values()
    steps = {"ours": our_step, "peer": peer_step}
    tensors, step = steps[library](make, (targets, embeddings), weights)
    # A few rows first, so that what is loaded on first use is not counted.
    step(*tensors(*small))
    batch = tensors(targets, embeddings)
    if library == "peer":  # XLA reserves more than it takes: ours is watched from outside
        limit_memory(megabytes)
    tell(ready=True)

    milliseconds, timed, peaks = [], [], []
    while len(timed) < calls or (len(timed) < MANY and sum(timed) < 1000 * FAST):
        before = forget_the_past() if len(milliseconds) < WARM_UPS else None
        start = time.perf_counter()
        value, *gradients = map(np.asarray, step(*batch))  # no copies, of either
        milliseconds.append(1000 * (time.perf_counter() - start))
        if before is not None:
            peaks.append(max(0, memory("VmHWM") - before))
        tell(call=len(milliseconds))
        timed = milliseconds[WARM_UPS:]
        if len(milliseconds) == WARM_UPS and milliseconds[-1] > 1000 * SLOW:
            timed = milliseconds[-1:]
            break
    tell(
        ms=[round(ms, 4) for ms in timed],
        first_ms=milliseconds[0],
        mb=peaks[-1] if peaks else None,
        first_mb=peaks[0] if peaks else None,  # with what compiling takes
        value=float(np.mean(value)),
        gradients=[float(np.linalg.norm(x)) for g in gradients for x in columns_of(g)],
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES[library]),
    )


# The orchestrator: starts the workers and prints the table.

OUT_OF_MEMORY = re.compile(
    "can't allocate memory|not enough memory|bad_alloc|MemoryError|RESOURCE_EXHAUSTED|"
    "ResourceExhausted|OOM when allocating|[Oo]ut of memory"
)


def measure(python, library, cell, path, options):
    """What one worker says: its measurements, or a `limit` it met, or its `error`."""
    megabytes = int(options.memory * 1024)
    command = [python, sys.argv[0], "worker", library, cell.loss, cell.layout, path]
    command += [str(options.calls), str(megabytes)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            env=os.environ | SETTINGS,
        ) as worker,
    ):
        last, ready, said = time.monotonic(), False, {}
        try:
            while True:
                if select.select([worker.stdout], [], [], 0.05)[0]:
                    line = worker.stdout.readline()
                    if not line:
                        break
                    if line.startswith(b"{"):  # and not something a library prints
                        said, last = json.loads(line), time.monotonic()
                        ready = ready or "ready" in said
                waited = time.monotonic() - last
                if ready and waited > options.timeout:
                    return {"limit": f"> {options.timeout:g} s"}
                if not ready and waited > START:
                    return {"error": f"not ready after {START} s"}
                if (memory("VmRSS", worker.pid) or 0) > megabytes:
                    return {"limit": "out of memory"}
        finally:
            worker.kill()
        if "ms" in said:
            return said
        worker.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [f"exit code {worker.returncode}"]
        if OUT_OF_MEMORY.search("\n".join(lines[-20:])):
            return {"limit": "out of memory"}
        print("\n".join(lines[-8:]), file=sys.stderr)
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return {"error": (raised or lines)[-1]}


def peer_python():
    """The interpreter of the peers' environment, which is made if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tfembloss" / "benchmark-peers"
    python, complete = folder / "bin" / "python", folder / "peers.txt"
    if not (complete.exists() and complete.read_text().split() == PEERS):
        print(f"installing {', '.join(PEERS)} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *PEERS]
        subprocess.run(install, check=True, stdout=sys.stderr)
        complete.write_text("\n".join(PEERS))
    return str(python)


def read(path):
    """`{(cell, library): {round: measurement}}` of a file; errors are to be made again."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        cell = Cell(record["loss"], record["layout"], record["rows"])
        results.setdefault((cell, record["library"]), {})[record["round"]] = record
    return results


def run(losses, layouts, options):
    """Makes the measurements that the file has not: ours, the peer's, ours, ..."""
    todo = cells(losses, layouts, options.sizes, options.only)
    results = read(options.out)
    pythons = {"ours": sys.executable}
    if any(losses[cell.loss].peer for cell in todo):
        pythons["peer"] = options.peer_python or peer_python()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, options.out.open("a") as out:
        path = os.path.join(folder, "batch.npz")
        for i, cell in enumerate(todo, 1):
            np.savez(path, *layouts[cell.layout].batch(cell.rows))
            for k in range(options.rounds):
                for library in list(pythons)[: 1 if losses[cell.loss].peer is None else 2]:
                    rounds = results.setdefault((cell, library), {})
                    if (k in rounds and "error" not in rounds[k]) or any(
                        "ms" not in rounds[j] for j in range(k)
                    ):
                        continue
                    said = measure(pythons[library], library, cell, path, options)
                    rounds[k] = {**cell._asdict(), "library": library, "round": k, **said}
                    print(json.dumps(rounds[k]), file=out, flush=True)
                    minutes = (time.monotonic() - start) / 60
                    print(
                        f"[{minutes:.0f} min, {i}/{len(todo)}] {cell}, {library}: "
                        f"{Result({k: rounds[k]}).time(1)}",
                        file=sys.stderr,
                    )
    return {(cell, library): Result(results.get((cell, library), {}))
            for cell in todo for library in ("ours", "peer")}  # fmt: skip


class Result:
    """What the rounds of one cell and library come to."""

    def __init__(self, rounds):
        records = list(rounds.values())
        self.failed = next((r for r in records if "ms" not in r), None)
        self.records = [] if self.failed else records
        self.calls = [ms for r in self.records for ms in r["ms"]]
        self.ms = statistics.median(self.calls) if self.calls else None

    def time(self, enough=ENOUGH):
        """For the table; with the number of calls where they are fewer than enough."""
        if self.failed:
            text = self.failed.get("limit") or self.failed["error"]
            return text.replace("|", " ")[:90]
        if self.ms is None:
            return "-"
        few = "" if len(self.calls) >= enough else f" ({len(self.calls)} calls)"
        return (f"{self.ms:.3g}" if self.ms < 100 else f"{self.ms:.0f}") + few

    def megabytes(self):
        """What a process took at most, over what it held before; for the table."""
        # TensorFlow keeps what the first call took, so that the second finds it there.
        peaks = [max(r["mb"], r["first_mb"]) for r in self.records if r["mb"] is not None]
        return f"{max(peaks):.0f}" if peaks else "-"

    def over(self, other):
        """How many times the other's time, for the table."""
        if other is None or self.ms is None or other.ms is None:
            return "-"
        return f"{self.ms / other.ms:.2f}"

    def differences(self, other, tolerance=1e-3):
        """Which of value and gradients' norms are not the other's, in words."""
        for ours, theirs in zip(self.records[:1], other.records[:1], strict=False):
            pairs = [("value", ours["value"], theirs["value"])]
            for a, b in zip(ours["gradients"], theirs["gradients"], strict=True):
                pairs.append(("gradient", a, b))
            for what, a, b in pairs:
                if not abs(a - b) <= tolerance * max(abs(a), abs(b)):  # NaN differs
                    yield f"{what} {a:.6g}, the peer's {b:.6g}"


def table(results, columns):
    """The lines of the report."""
    head = ["loss", "batch", "B", "ours ms", "peer ms", "peer / ours", "ours MB", "peer MB"]
    head += columns
    yield f"| {' | '.join(head)} |"
    yield "|---|---|" + "---:|" * (len(head) - 2)
    different = []
    for cell in dict.fromkeys(cell for cell, _ in results):
        ours, peer = results[cell, "ours"], results[cell, "peer"]
        row = [cell.loss, cell.layout, cell.rows, ours.time(), peer.time()]
        row += [peer.over(ours), ours.megabytes(), peer.megabytes()]
        for compared_to in columns.values():
            row.append(ours.over(results.get((compared_to(cell), "ours"))))
        yield f"| {' | '.join(map(str, row))} |"
        different += [f"{cell}: {what}" for what in ours.differences(peer)]
    yield ""
    differences = "; ".join(different) or "none"
    yield f"Value or norm of a gradient more than 1e-3 apart: {differences}."
    yield ""
    versions = {r["versions"]: 0 for result in results.values() for r in result.records}
    yield f"{machine()}, {THREADS} threads; {'; '.join(versions)}."


def machine():
    """The processor, its cores, and the memory."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {gigabytes:.0f} GiB"


def main(description, losses, layouts, columns=None):
    """Measures and prints; in a worker's process, its part of that.

    Args:
        description: of the script.
        losses: `{name: Loss}`.
        layouts: `{name: Layout}`.
        columns: further ones of the table: `{head: cell -> the cell to divide ours by}`.
    """
    if sys.argv[1:2] == ["worker"]:
        library, loss, layout, path, calls, megabytes = sys.argv[2:]
        make, small = getattr(losses[loss], library), layouts[layout].batch(16)[:2]
        work(make, library, small, path, int(calls), int(megabytes))
        return
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="measurements; default: a new temporary file"
    )
    parser.add_argument("--only", default="", help="cells such as 'CircleLoss, K=4, B=128'")
    parser.add_argument("--sizes", type=int, nargs="+", help="B, multiples of 8")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each library")
    parser.add_argument("--calls", type=int, default=4, help="timed calls of a process")
    parser.add_argument("--timeout", type=float, default=120, help="seconds of one call")
    parser.add_argument("--memory", type=float, default=14, help="GiB of one process")
    parser.add_argument("--peer-python", help="an interpreter that has the peers")
    options = parser.parse_args()
    if options.out is None:
        prefix = f"{Path(sys.argv[0]).stem}-"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".jsonl")
        os.close(handle)
        options.out = Path(name)
    print(f"measurements: {options.out}", file=sys.stderr)
    print("\n".join(table(run(losses, layouts, options), columns or {})))
