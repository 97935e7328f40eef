"""Draws the README's figure: memory and time of large batches, compared with peers.

    pip install ".[plot]"
    python examples/draw_large_batches.py    # seconds: nothing is measured here

The numbers are those of the table "Large batches" in tests/benchmarks/README.md, D = 256:
`MultipleNegativesRankingLoss` and sentence-transformers' dense and cached losses.
"""

import argparse
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
TABLE = HERE.parent / "tests" / "benchmarks" / "README.md"
DIM = "256"
UNITS = {"ms": 1e-3, "s": 1.0, "MB": 1.0}
LINES = {  # label, color, marker; the colors are safe for color-blind readers
    "ours": ("tfembloss", "#0072b2", "o"),
    "dense peer": ("sentence-transformers, dense", "#d55e00", "s"),
    "cached peer": ("sentence-transformers, cached", "#707070", "^"),
}


def read_table(text):
    """Reads batch sizes, and each library's seconds and megabytes by batch size."""
    start = text.index("| D | B | ours")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text[start:].split("\n\n")[0].splitlines()
    ]
    header, dim, found = rows[0], None, {name: {} for name in LINES}
    for row in rows[2:]:
        cells = dict(zip(header, row, strict=True))
        dim = cells["D"] or dim
        for name in LINES:
            numbers = re.findall(r"([\d.]+) (ms|s|MB)", cells[name])
            if dim == DIM and len(numbers) == 2:
                found[name][int(cells["B"])] = [
                    float(number) * UNITS[unit] for number, unit in numbers
                ]
    sizes = sorted(set.intersection(*map(set, found.values())))
    return sizes, {
        name: list(zip(*(values[size] for size in sizes), strict=True))
        for name, values in found.items()
    }


def draw(sizes, found, path):
    """Draws two panels, memory and time by the number of pairs in the batch."""
    import matplotlib

    matplotlib.use("Agg")  # draws into files, with or without a screen
    from matplotlib import pyplot, ticker

    pyplot.rcParams.update({"font.size": 12, "text.color": "#222222"})
    pyplot.rcParams["figure.constrained_layout.h_pad"] = 0.1  # inches
    figure, axes = pyplot.subplots(
        1, 2, figsize=(9.6, 4.6), layout="constrained", facecolor="white"
    )
    panels = [("Memory", 1, "MB", "{:,.0f} MB"), ("Time", 0, "s", "{:.3g} s")]
    for axis, (title, part, unit, form) in zip(axes, panels, strict=True):
        for name, (label, color, marker) in LINES.items():
            values = found[name][part]
            axis.plot(sizes, values, marker=marker, color=color, lw=2.5, ms=7, label=label)
            axis.annotate(
                form.format(values[-1]),
                (sizes[-1], values[-1]),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=color,
                weight="bold",
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlim(sizes[0] * 0.85, sizes[-1] * 2.3)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:,g}"))
        axis.set_title(f"{title} ({unit}, log scale)", fontsize=13)
        axis.set_xlabel("pairs in the batch")
        axis.grid(which="major", color="#dddddd")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.suptitle(
        "In-batch negatives: the loss and its gradient, 256 dimensions, 2 CPU cores",
        fontsize=14,
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "large_batches.png")
    arguments = parser.parse_args()
    draw(*read_table(TABLE.read_text("utf-8")), arguments.out)
    print(arguments.out)
