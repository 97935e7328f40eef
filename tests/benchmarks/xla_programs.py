"""What XLA makes of every loss's step: its memory, and its time on JAX's first device.

    python xla_programs.py lower FOLDER [--only REGEX] [--sizes B ...] [--dim D]
    python xla_programs.py memory FOLDER [--only REGEX]
    python xla_programs.py run FOLDER [--only REGEX] [--bfloat16]

`lower` needs tfembloss, and no accelerator: it writes the program of each loss's value and
gradient at each B, and at the smallest one what TensorFlow computes on this machine.
`memory` and `run` need JAX alone, which has XLA for CPU, GPU and TPU: they may run on
another machine. `memory` compiles each program for the first device and prints the
temporary memory that XLA plans for it, and how it grows from one B to the next. `run`
compares value and gradient with TensorFlow's, and times the program; beside it torch's
losses of the peers on the same device, plain and by torch.compile, if torch is installed.
With `--bfloat16` matrix products round their factors to bfloat16, as a TPU's do by default.
"""

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np

SIZES = [4096, 8192, 16384]
MOST = 2.2  # from B to 2B; what grows by more is listed
CALLS = 20


def lower(options):
    """Writes `NAME-B.hlo`, and `NAME-B.npz` with the arguments and results of one B."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import tensorflow as tf
    from cases import CASES
    from programs import lowered, step

    cases = {}  # the first of each class, which has the defaults
    for name, case in CASES.items():
        cases.setdefault(name.split("-")[0], case)
    for name, case in cases.items():
        for rows in sorted(options.sizes) if re.search(options.only, name) else []:
            loss, file = case.make(), options.folder / f"{name}-{rows}"
            y_true, y_pred = case.inputs(rows, options.dim)
            y_true, y_pred = tf.constant(y_true), tf.constant(y_pred, "float32")
            file.with_suffix(".hlo").write_bytes(
                lowered(loss, y_true, y_pred, "hlo_serialized")
            )
            if rows == min(options.sizes):
                value, gradient = step(loss)(y_true, y_pred)
                np.savez(file.with_suffix(".npz"), y_true=y_true, y_pred=y_pred,
                         value=value, gradient=gradient)  # fmt: skip
            print(file.name, flush=True)


def programs(options):
    """`{name: {B: path}}` of a folder."""
    found = {}
    for path in options.folder.glob("*.hlo"):
        name, rows = path.stem.rsplit("-", 1)
        if re.search(options.only, name):
            found.setdefault(name, {})[int(rows)] = path
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def compiled(path, bfloat16=False):
    """A program for JAX's first device."""
    import jax
    from jax._src.lib import xla_client

    device = jax.devices()[0]
    mlir = xla_client._xla.mlir
    module = mlir.xla_computation_to_mlir_module(
        xla_client.XlaComputation(path.read_bytes())
    )
    if bfloat16:
        module = bfloat16_products(module)
    return device.client.compile_and_load(
        module, xla_client.DeviceList((device,)), xla_client.CompileOptions()
    )


def bfloat16_products(module):
    """The module with products of bfloat16 factors that are summed in float32."""
    from jax.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    def half(value):
        of = ir.RankedTensorType(value.type)
        if not isinstance(of.element_type, ir.F32Type):
            return value
        return stablehlo.convert(
            ir.RankedTensorType.get(of.shape, ir.BF16Type.get()), value
        )

    def change(operation):
        if operation.name in ("stablehlo.dot_general", "stablehlo.dot"):
            with ir.InsertionPoint(operation):
                for index, factor in enumerate(operation.operands):
                    operation.operands[index] = half(factor)
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        module = ir.Module.parse(module)
        module.operation.walk(change)
        return mlir.module_to_bytecode(module)


def memory(options):
    """Prints the table of temporary memory."""
    names = programs(options)
    sizes = sorted({rows for of_name in names.values() for rows in of_name})
    print("| loss | " + " | ".join(f"B={rows}" for rows in sizes) + " | growth |")
    print("|" + "---|" * (len(sizes) + 2))
    for name, of_name in names.items():
        megabytes = {
            rows: compiled(path).get_compiled_memory_stats().temp_size_in_bytes / 1e6
            for rows, path in of_name.items()
        }
        cells = [f"{megabytes[rows]:.0f}" if rows in megabytes else "" for rows in sizes]
        numbers = list(megabytes.values())
        growth = max((b / a for a, b in zip(numbers, numbers[1:])), default=0)  # noqa: B905, RUF007
        mark = " (!)" if growth > MOST else ""
        print(f"| {name} | {' | '.join(cells)} | {growth:.1f}{mark} |", flush=True)


def milliseconds(call):
    """The median time of a call that waits for its results."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def of_jax(path, data, bfloat16):
    """The time of a program, and how far its value and gradient are from TensorFlow's."""
    import jax

    program = compiled(path, bfloat16)
    # A program has no argument for y_true of no columns.
    arrays = [data[key] for key in ("y_true", "y_pred") if data[key].size]
    arguments = [jax.device_put(x) for x in arrays]
    if arguments[0].dtype != arrays[0].dtype:
        raise SystemExit("64-bit ids and scores need JAX_ENABLE_X64=1 in the environment")

    def call():
        return [x.block_until_ready() for x in program.execute(arguments)]

    value, gradient = call()
    scale = max(abs(data["gradient"]).max(), 1e-30)
    return {
        "ms": milliseconds(call),
        "value_off": abs(float(value) / float(data["value"]) - 1) if data["value"] else 0,
        "gradient_off": float(abs(np.asarray(gradient) - data["gradient"]).max() / scale),
    }


def of_torch(name, data, how):
    """The time of the peer's loss on torch's GPU, or its CPU; None without a peer."""
    import label_losses
    import losses
    import torch
    from harness import columns_of

    loss = {**losses.LOSSES, **label_losses.LOSSES}.get(name)
    if loss is None or loss.peer is None or "class" in " ".join(loss.layouts[:1]):
        return None  # losses on class centers are measured with their weights elsewhere
    device = "cuda" if torch.cuda.is_available() else "cpu"
    function, _ = loss.peer()
    targets = torch.from_numpy(data["y_true"]).to(device)
    columns = [torch.from_numpy(np.array(x)).to(device) for x in columns_of(data["y_pred"])]
    columns = [x.requires_grad_() for x in columns]
    if how == "compiled":
        function = torch.compile(function)

    def call():
        gradients = torch.autograd.grad(function(targets, columns), columns)
        if device == "cuda":
            torch.cuda.synchronize()
        return gradients

    return milliseconds(call)


def run(options):
    """Prints a line of JSON for each loss."""
    for name, of_name in programs(options).items():
        for rows, path in of_name.items():
            if not path.with_suffix(".npz").exists():
                continue
            with np.load(path.with_suffix(".npz")) as arrays:
                data = dict(arrays)
            result = {"loss": name, "B": rows, **of_jax(path, data, options.bfloat16)}
            for how in ("plain", "compiled"):
                try:
                    result[f"torch_{how}_ms"] = of_torch(name, data, how)
                except Exception as error:  # of torch.compile there are many kinds
                    result[f"torch_{how}"] = str(error).splitlines()[0][:80]
            print(json.dumps(result), flush=True)


def main():
    """Runs one of the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["lower", "memory", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"lower": lower, "memory": memory, "run": run}[options.what](options)


if __name__ == "__main__":
    main()
