"""The picture of a schedule: keep rate over the run, and how much of the run each stage takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.plan.schedule import PatchSchedule, StageSummary
from tools.colours import BLUE, ORANGE

_MAX_POINTS = 200_000  # steps drawn; longer runs are thinned out
_MAX_LABELLED_STAGES = 12


def draw(schedule: PatchSchedule, stages: list[StageSummary], title: str, path: Path) -> None:
    """Write the picture of a schedule as a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    below = _below(schedule)
    figure = Figure(figsize=(10, 4.2 + 1.8 * len(below)), dpi=120, layout="constrained")
    heights = [4.2, *[1.8] * len(below)]
    rows = figure.subplots(len(heights), 2, width_ratios=(3, 1), height_ratios=heights, sharey="row", squeeze=False)
    over_steps, shares = rows[0]
    figure.suptitle(f"{title} (mean keep rate {schedule.mean_keep_rate:.3f})")
    _draw_steps(over_steps, schedule)
    _draw_shares(shares, stages)
    over_steps.set_ylim(0, 1.08)
    for line, (left, right) in zip(below, rows[1:], strict=True):
        _draw_line(left, schedule.total_steps, line)
        right.set_axis_off()
    figure.savefig(path)


@dataclass(frozen=True)
class _Line:
    """What else follows a schedule. kind: of the schedule; values: of steps, int64 [n], to numbers of that length."""

    label: str
    kind: str
    values: Callable[[np.ndarray], np.ndarray]


def _below(schedule: PatchSchedule) -> list[_Line]:
    of_axis = {"image_size": schedule.image_sizes, "patch_size": schedule.patch_sizes}
    sizes = [
        _Line(f"{axis.replace('_', ' ')}, px", one.kind, of_axis[axis]) for axis, one in schedule.config.sizes.items()
    ]
    strengths = schedule.strengths.items()
    return sizes + [_Line(name, one.kind, partial(schedule.strengths_over, name)) for name, one in strengths]


def _draw_steps(axes: Axes, schedule: PatchSchedule) -> None:
    total, per_epoch = schedule.total_steps, schedule.steps_per_epoch
    steps = np.arange(0, total, -(-total // _MAX_POINTS))
    rates = schedule.keep_rates(steps)
    if schedule.config.kind == "choice":
        axes.plot(steps, rates, linestyle="none", marker="|", markersize=4, color=BLUE)
    else:
        width = 0.5 if schedule.config.kind == "cyclic" and total > 20 * per_epoch else 1.5
        # The end point gives the last step its width.
        axes.plot(np.append(steps, total), np.append(rates, rates[-1]), drawstyle="steps-post", color=BLUE, lw=width)
    axes.set_xlim(0, total)
    axes.set_xlabel("step")
    axes.set_ylabel("keep rate")
    axes.grid(alpha=0.3)
    epochs = axes.secondary_xaxis("top", functions=(_times(1 / per_epoch), _times(per_epoch)))
    all_alike = schedule.config.examples is None and not schedule.earlier
    epochs.set_xlabel("epoch" if all_alike else "epochs of all examples")


def _draw_line(axes: Axes, total: int, line: _Line) -> None:
    steps = np.arange(0, total, -(-total // _MAX_POINTS))
    values = line.values(steps)
    if line.kind == "choice":
        axes.plot(steps, values, linestyle="none", marker="|", markersize=4, color=ORANGE)
    else:
        axes.plot(np.append(steps, total), np.append(values, values[-1]), drawstyle="steps-post", color=ORANGE)
    axes.set_xlim(0, total)
    axes.set_ylim(0, 1.15 * values.max() or 1)
    axes.set_xlabel("step")
    axes.set_ylabel(line.label)
    axes.grid(alpha=0.3)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: np.asarray(values) * factor


def _draw_shares(axes: Axes, stages: list[StageSummary]) -> None:
    """A bar for each keep rate, all sizes together."""
    rates = sorted({stage.keep_rate for stage in stages})
    at_rate = [[stage for stage in stages if stage.keep_rate == rate] for rate in rates]
    shares = [sum(stage.share for stage in group) for group in at_rate]
    labelled = len(rates) <= _MAX_LABELLED_STAGES
    gap = min((b - a for a, b in pairwise(rates)), default=0.2)
    axes.barh(rates, shares, height=0.6 * min(gap, 0.2), color=ORANGE)
    if labelled:
        for rate, share, group in zip(rates, shares, at_rate, strict=True):
            nums_kept = sorted({stage.num_kept for stage in group})
            kept = f"{nums_kept[0]}" if len(nums_kept) == 1 else f"{nums_kept[0]} to {nums_kept[-1]}"
            axes.annotate(f" {kept} patches, {share:.1%}", (share, rate), va="center", fontsize=8)
    # Room for the labels beside the longest bar.
    axes.set_xlim(0, max(shares) * (2.6 if labelled else 1.1))
    axes.set_xlabel("share of the run")
    axes.grid(alpha=0.3, axis="x")
