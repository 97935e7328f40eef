"""Time and memory of the losses on ids, side by side with the PyTorch libraries.

    python label_losses.py [--out FILE] [--only REGEX] [--sizes B ...] [--peer-python PATH]

A cell is one loss on a batch of B embeddings [B, 256], 4 rows per class or 8 classes: its
value and its gradient with respect to the embeddings. The peers are sentence-transformers
(`Batch...`) and pytorch-metric-learning (the others) on torch; without --peer-python they
are installed once, in a virtual environment in the user's cache folder.

Prints a table in markdown: the median call of ours and of the peer, the memory that calls
take at their peak, how the time of ours grows from B/2 to B, and ours divided by the time
of the matrix of euclidean distances alone; then where the two differ in value or gradient,
and the machine. A cell beyond --memory or --timeout says so, and that is a result.

Every measurement goes to FILE as a line of JSON when it is made. Run again with the same
FILE, the script makes what is missing or failed with an error, and prints the whole table.
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
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

PEERS = ["torch==2.13.0", "sentence-transformers==6.2.0", "pytorch-metric-learning==2.9.0"]
PACKAGES = {
    "ours": ["tfembloss", "tensorflow", "keras"],
    "peer": [package.split("==")[0] for package in PEERS],
}
THREADS = 2
WARM_UPS = 2  # calls that are not timed: the first compiles
START = 120  # seconds for a process to import, and to compile for a few rows
SLOW = 10  # seconds of a call, above which a process times one call only
ENOUGH = 7  # timed calls of a cell; the table marks cells with fewer
DIM = 256
FLOOR = "euclidean matrix"


def sentence_transformers(name):
    """Makes that loss as a function of ids and embeddings."""

    def make():
        from sentence_transformers.sentence_transformer import losses

        loss = getattr(losses, name)(model=None)
        return lambda ids, x: loss.compute_loss_from_embeddings([x], ids)

    return make


def metric_learning(name, miner=None, miner_options=None, **options):
    """Makes that loss, with its miner, as a function of ids and embeddings."""

    def make():
        from pytorch_metric_learning import losses, miners

        loss = getattr(losses, name)(**options)
        if miner is None:
            return lambda ids, x: loss(x, ids)
        mine = getattr(miners, miner)(**(miner_options or {}))
        return lambda ids, x: loss(x, ids, mine(x, ids))

    return make


def floor(t):
    """The matrix itself as the "loss": its gradient then has an upstream of ones."""
    return lambda ids, x: t.distances.euclidean.pairwise(x, x)  # [B, B]


# What makes ours from the package tfembloss, and what makes the peer's.
LOSSES = {
    FLOOR: (floor, None),
    "BatchAllTripletLoss": (
        lambda t: t.losses.BatchAllTripletLoss(),
        sentence_transformers("BatchAllTripletLoss"),
    ),
    "BatchHardTripletLoss": (
        lambda t: t.losses.BatchHardTripletLoss(),
        sentence_transformers("BatchHardTripletLoss"),
    ),
    "BatchHardSoftMarginTripletLoss": (
        lambda t: t.losses.BatchHardSoftMarginTripletLoss(),
        sentence_transformers("BatchHardSoftMarginTripletLoss"),
    ),
    "BatchSemiHardTripletLoss": (
        lambda t: t.losses.BatchSemiHardTripletLoss(),
        sentence_transformers("BatchSemiHardTripletLoss"),
    ),
    "TripletMarginLoss": (
        lambda t: t.losses.TripletMarginLoss(),
        metric_learning("TripletMarginLoss"),
    ),
    "TripletMarginLoss, semihard": (
        lambda t: t.losses.TripletMarginLoss(
            miner=t.miners.TripletMarginMiner(type_of_triplets="semihard")
        ),
        metric_learning(
            "TripletMarginLoss", "TripletMarginMiner", {"type_of_triplets": "semihard"}
        ),
    ),
    "TripletMarginLoss, batch hard": (
        lambda t: t.losses.TripletMarginLoss(miner=t.miners.BatchHardMiner()),
        metric_learning("TripletMarginLoss", "BatchHardMiner"),
    ),
    "TripletMarginLoss, swap": (
        lambda t: t.losses.TripletMarginLoss(swap=True),
        metric_learning("TripletMarginLoss", swap=True),
    ),
    "TripletMarginLoss, smooth": (
        lambda t: t.losses.TripletMarginLoss(smooth=True),
        metric_learning("TripletMarginLoss", smooth_loss=True),
    ),
    "NTXentLoss": (lambda t: t.losses.NTXentLoss(), metric_learning("NTXentLoss")),
    "SupConLoss": (lambda t: t.losses.SupConLoss(), metric_learning("SupConLoss")),
    "MultiSimilarityLoss": (
        lambda t: t.losses.MultiSimilarityLoss(),
        metric_learning("MultiSimilarityLoss"),
    ),
    "MultiSimilarityLoss, mined": (
        lambda t: t.losses.MultiSimilarityLoss(miner=t.miners.MultiSimilarityMiner()),
        metric_learning("MultiSimilarityLoss", "MultiSimilarityMiner"),
    ),
    "CircleLoss": (lambda t: t.losses.CircleLoss(), metric_learning("CircleLoss")),
    "LiftedStructureLoss": (
        lambda t: t.losses.LiftedStructureLoss(),
        metric_learning("LiftedStructureLoss"),
    ),
    "GeneralizedLiftedStructureLoss": (
        lambda t: t.losses.GeneralizedLiftedStructureLoss(),
        metric_learning("GeneralizedLiftedStructureLoss"),
    ),
    "NPairsLoss": (lambda t: t.losses.NPairsLoss(), metric_learning("NPairsLoss")),
    "MarginLoss": (lambda t: t.losses.MarginLoss(), metric_learning("MarginLoss")),
}
FEW_CLASSES = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "TripletMarginLoss",
    "TripletMarginLoss, semihard",
]


class Cell(NamedTuple):
    """One loss on one batch."""

    loss: str
    layout: str  # "K=4" or "8 classes"
    rows: int

    def __str__(self):
        return f"{self.loss}, {self.layout}, B={self.rows}"

    def batch(self):
        """Ids and embeddings, some rows near their class's centre and some far.

        Two thirds of the triplets are within a margin of 5, and a tenth within one of 0.05
        on directions.
        """
        num_classes = 8 if self.layout == "8 classes" else self.rows // 4
        rng = np.random.default_rng(0)
        ids = rng.permutation(np.arange(self.rows) % num_classes)  # [B]
        centres = 0.5 * rng.normal(size=[num_classes, DIM])
        noise = rng.uniform(0.5, 1.5, [self.rows, 1]) * rng.normal(size=[self.rows, DIM])
        return {"ids": ids, "embeddings": (centres[ids] + noise).astype("float32")}


def cells(sizes, only):
    """Every cell, in the order of the table."""
    every = [Cell(n, "K=4", b) for n in LOSSES for b in sizes or [128, 512, 2048, 4096]]
    few_sizes = sizes or [128, 512, 1024, 2048, 4096]
    every += [Cell(n, "8 classes", b) for n in FEW_CLASSES for b in few_sizes]
    return [cell for cell in every if re.search(only, str(cell))]


# The worker: one process, one cell, one library.


def our_step(loss):
    """What makes tensors, and `(ids, embeddings) -> value, gradient`."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    import tfembloss

    function = LOSSES[loss][0](tfembloss)

    # Traced without B, as `fit` traces it.
    @tf.function(
        input_signature=[tf.TensorSpec([None], "int64"), tf.TensorSpec([None, DIM])],
        autograph=False,
    )
    def step(ids, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(ids, x)
        return value, tape.gradient(value, x)

    return tf.constant, step


def peer_step(loss):
    """The same of the peer."""
    import torch

    torch.set_num_threads(THREADS)
    function = LOSSES[loss][1]()

    def step(ids, x):
        x = x.requires_grad_()
        value = function(ids, x)
        return value.detach(), torch.autograd.grad(value, x)[0]

    return torch.from_numpy, step


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


def work(library, loss, path, calls, megabytes):
    """Prints a line of JSON when it is ready, after every call, and with the result."""
    tell = lambda **what: print(json.dumps(what), flush=True)  # noqa: E731
    with np.load(path) as data:
        ids, embeddings = data["ids"], data["embeddings"]
    tensor, step = {"ours": our_step, "peer": peer_step}[library](loss)
    # A few rows first, so that what is loaded on first use is not counted.
    step(tensor(np.arange(16) // 4), tensor(embeddings[:16]))
    ids, embeddings = tensor(ids), tensor(embeddings)
    if library == "peer":  # XLA reserves more than it takes: ours is watched from outside
        limit_memory(megabytes)
    tell(ready=True)

    milliseconds, peaks = [], []
    for i in range(WARM_UPS + calls):
        before = forget_the_past() if i < WARM_UPS else None
        start = time.perf_counter()
        value, gradient = (part.numpy() for part in step(ids, embeddings))
        milliseconds.append(1000 * (time.perf_counter() - start))
        if before is not None:
            peaks.append(max(0, memory("VmHWM") - before))
        tell(call=i)
        if i == WARM_UPS - 1 and milliseconds[-1] > 1000 * SLOW:
            break
    timed = milliseconds[WARM_UPS:] or milliseconds[-1:]
    tell(
        ms=timed,
        first_ms=milliseconds[0],
        mb=peaks[-1] if peaks else None,
        first_mb=peaks[0] if peaks else None,  # with what compiling takes
        value=float(np.mean(value)),
        gradient=float(np.linalg.norm(gradient)),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES[library]),
    )


# The orchestrator: starts the workers and prints the table.

OUT_OF_MEMORY = re.compile(
    "can't allocate memory|not enough memory|bad_alloc|MemoryError|RESOURCE_EXHAUSTED|"
    "ResourceExhausted|OOM when allocating|[Oo]ut of memory"
)


def measure(python, library, cell, path, options):
    """What one worker says: its measurements, or a `limit` it met, or its `error`."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "MKL_NUM_THREADS": str(THREADS),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    megabytes = int(options.memory * 1024)
    command = [python, __file__, "worker", library, cell.loss, path]
    command += [str(options.calls), str(megabytes)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=environment
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


def run(options):
    """Makes the measurements that the file has not: ours, the peer's, ours, ..."""
    todo, results = cells(options.sizes, options.only), read(options.out)
    pythons = {"ours": sys.executable}
    if any(LOSSES[cell.loss][1] for cell in todo):
        pythons["peer"] = options.peer_python or peer_python()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, options.out.open("a") as out:
        path = os.path.join(folder, "batch.npz")
        for i, cell in enumerate(todo, 1):
            np.savez(path, **cell.batch())
            for k in range(options.rounds):
                for library in list(pythons)[: 1 if LOSSES[cell.loss][1] is None else 2]:
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
        return (f"{self.ms:.2f}" if self.ms < 100 else f"{self.ms:.0f}") + few

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
        """Which of value and gradient norm are not the other's, in words."""
        pairs = zip(self.records[:1], other.records[:1], strict=False)
        for ours, theirs in pairs:
            for what in ("value", "gradient"):
                a, b = ours[what], theirs[what]
                if not abs(a - b) <= tolerance * max(abs(a), abs(b)):  # NaN differs
                    yield f"{what} {a:.6g}, the peer's {b:.6g}"


def table(results):
    """The lines of the report."""
    head = "loss | batch | B | ours ms | peer ms | peer / ours | ours MB | peer MB"
    yield f"| {head} | ours, B/2 to B | ours / {FLOOR} |"
    yield "|---|---|" + "---:|" * 8
    different = []
    for cell in dict.fromkeys(cell for cell, _ in results):
        ours, peer = results[cell, "ours"], results[cell, "peer"]
        half = results.get((cell._replace(rows=cell.rows // 2), "ours"))
        matrix = results.get((cell._replace(loss=FLOOR), "ours"))
        row = [cell.loss, cell.layout, cell.rows, ours.time(), peer.time()]
        row += [peer.over(ours), ours.megabytes(), peer.megabytes()]
        yield f"| {' | '.join(map(str, [*row, ours.over(half), ours.over(matrix)]))} |"
        different += [f"{cell}: {what}" for what in ours.differences(peer)]
    yield ""
    differences = "; ".join(different) or "none"
    yield f"Value or norm of the gradient more than 1e-3 apart: {differences}."
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


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        handle, name = tempfile.mkstemp(prefix="label_losses-", suffix=".jsonl")
        os.close(handle)
        options.out = Path(name)
    print(f"measurements: {options.out}", file=sys.stderr)
    print("\n".join(table(run(options))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        library, loss, path, calls, megabytes = sys.argv[2:]
        work(library, loss, path, int(calls), int(megabytes))
    else:
        main()
