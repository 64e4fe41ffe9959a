"""The picture of a profile: images per second over the keep rate, of each side alone and of both together."""

from pathlib import Path

from matplotlib.figure import Figure

from tools.colours import BLUE, GREEN, ORANGE
from tools.profile.result import Profile

_LINES = (
    ("loader", "loader alone", BLUE, "o"),
    ("step", "training step alone", ORANGE, "s"),
    ("end_to_end", "both together", GREEN, "^"),
)
_FAR_APART = 30


def draw(profile: Profile, path: Path) -> None:
    """Write the picture as a PNG file. Bars reach from the slowest repeat to the fastest.

    Where one side is many times faster than the other, the axis is logarithmic, or the slower one lay flat on it.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    medians = []
    for field, label, color, marker in _LINES:
        points = [(stage.keep_rate, getattr(stage, field)) for stage in profile.stages if getattr(stage, field)]
        if not points:
            continue
        rates = [rate for _, rate in points]
        medians += [rate.median for rate in rates]
        axes.errorbar(
            [keep_rate for keep_rate, _ in points],
            [rate.median for rate in rates],
            yerr=[[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]],
            label=label,
            color=color,
            marker=marker,
            capsize=3,
        )
    axes.set(xlabel="keep rate", ylabel="images/s over all ranks")
    if medians and max(medians) > _FAR_APART * min(medians):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"{profile.name}: throughput per stage on {profile.world_size} rank(s)", fontsize=10)
    figure.savefig(path)
