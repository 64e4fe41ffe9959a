"""The picture of a sweep: accuracy over the keep rate, a line for each run, rule and size."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tools.colours import COLOURS, MARKERS
from tools.sweep.labels import with_sizes


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Write top-1 accuracy over the keep rate as a PNG file.

    Args:
        lines: of a sweep, as ``tools.sweep`` writes them.

    Raises:
        OSError: the file cannot be written.
    """
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in with_sizes(lines):
        series.setdefault((line["run"], line["rule"]), []).append((line["keep_rate"], 100 * line["top1"]))
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    for i, ((run, rule), points) in enumerate(series.items()):
        rates, accuracies = zip(*sorted(points), strict=True)
        color, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(rates, accuracies, color=color, marker=marker, label=f"{run}, {rule}")
    axes.set(xlabel="keep rate", ylabel="top-1 accuracy on the validation set, %")
    axes.set_ylim(bottom=0, top=1.05 * axes.get_ylim()[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
