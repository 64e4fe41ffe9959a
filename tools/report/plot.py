"""The drawings of a report: few forms, large letters, colours and markers that say the same twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.colours import BLUE, COLOURS, MARKERS, ORANGE

# As wide as a phone shows it nearly unscaled, so letters of 11 points stay legible there.
_WIDTH_INCHES, _HEIGHT_INCHES = 5.2, 3.5
_FONT_POINTS = 11
_MAX_POINTS = 400  # of a line; longer ones are thinned out
_LEGEND_ROW_INCHES = 0.24
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """How a line is told from the others."""

    color: str = BLUE
    marker: str = ""
    dash: str = "-"


@dataclass(frozen=True)
class Series:
    """A line of a drawing.

    Attributes:
        spread: half the length of the error bar at each point.
        faint: whether the line is the unsmoothed ground of another and has no entry in the legend.
        steps: whether y holds until the next x.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: Look = Look()
    spread: Sequence[float] | None = None
    faint: bool = False
    steps: bool = False


def looks(groups: Sequence[tuple[str, str]]) -> list[Look]:
    """A look for each (first, second): the first decides the colour, the second marker and dash. No look comes twice.

    A pair that is there already takes the next marker that is free in its colour.
    """
    firsts = list(dict.fromkeys(first for first, _ in groups))
    seconds = list(dict.fromkeys(second for _, second in groups))
    found: list[Look] = []
    for first, second in groups:
        color = COLOURS[firsts.index(first) % len(COLOURS)]
        wanted = seconds.index(second)
        numbers = [*range(wanted, wanted + len(MARKERS)), wanted]
        options = [Look(color, MARKERS[n % len(MARKERS)], _DASHES[n % len(_DASHES)]) for n in numbers]
        found.append(next((look for look in options if look not in found), options[-1]))
    return found


def _axes(num_legend_rows: int = 0, height: float = _HEIGHT_INCHES) -> tuple[Figure, Axes]:
    height += num_legend_rows * _LEGEND_ROW_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT_POINTS - 1)
    return figure, axes


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=_FONT_POINTS)
    axes.set_ylabel(y, fontsize=_FONT_POINTS)


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 11 else 2 if longest <= 24 else 1


def _thin(series: Series) -> Series:
    every = -(-len(series.x) // _MAX_POINTS)
    if every <= 1:
        return series
    keep = sorted({*range(0, len(series.x), every), len(series.x) - 1})
    return replace(series, x=[series.x[i] for i in keep], y=[series.y[i] for i in keep])


def draw_lines(
    series: Sequence[Series],
    x: str,
    y: str,
    *,
    y_from_zero: bool = False,
    y_top: float | None = None,
    height: float = _HEIGHT_INCHES,
) -> Figure:
    """Lines over a common axis, with a legend below where there are several."""
    labels = [one.label for one in series if not one.faint]
    columns = _legend_columns(labels)
    figure, axes = _axes(-(-len(labels) // columns) if len(labels) > 1 else 0, height)
    for one in map(_thin, series):
        look = one.look
        kind: dict[str, Any] = {"color": look.color, "linestyle": look.dash, "linewidth": 1.8}
        if one.faint:
            axes.plot(one.x, one.y, color=look.color, alpha=0.25, linewidth=0.8)
            continue
        if look.marker:
            kind |= {"marker": look.marker, "markersize": 5, "markevery": max(1, len(one.x) // 12)}
        if one.steps:
            axes.plot(one.x, one.y, drawstyle="steps-post", label=one.label, **kind)
        elif one.spread is not None and any(one.spread):
            axes.errorbar(one.x, one.y, yerr=one.spread, capsize=3, label=one.label, **kind)
        else:
            axes.plot(one.x, one.y, label=one.label, **kind)
    _label(axes, x, y)
    if y_from_zero:
        axes.set_ylim(bottom=0, top=y_top)
    if len(labels) > 1:
        figure.legend(loc="outside lower center", ncols=columns, fontsize=_FONT_POINTS - 1.5, frameon=False)
    return figure


def draw_points(series: Sequence[Series], x: str, y: str, x_spread: Sequence[float], reference: float | None) -> Figure:
    """A point for each series, with error bars both ways; a dashed line at the reference's y."""
    columns = _legend_columns([one.label for one in series])
    figure, axes = _axes(-(-len(series) // columns), height=_HEIGHT_INCHES + 0.3)
    if reference is not None:
        axes.axhline(reference, color="#888888", linewidth=1, linestyle="--", zorder=0)
    for one, width in zip(series, x_spread, strict=True):
        axes.errorbar(
            one.x,
            one.y,
            xerr=[width],
            yerr=one.spread,
            color=one.look.color,
            capsize=2,
            elinewidth=1,
            linestyle="none",
        )
        # On its own, so that the legend shows markers without error bars on them.
        kind: dict[str, Any] = {"color": one.look.color, "marker": one.look.marker, "markersize": 8}
        axes.plot(one.x, one.y, linestyle="none", label=one.label, **kind)
    axes.margins(0.12)
    _label(axes, x, y)
    figure.legend(loc="outside lower center", ncols=columns, fontsize=_FONT_POINTS - 1.5, frameon=False)
    return figure


def draw_bars(labels: Sequence[str], values: Sequence[float], texts: Sequence[str], x: str, y: str) -> Figure:
    """Horizontal bars, each with its value written at its end."""
    figure, axes = _axes(height=max(1.4, 0.75 + 0.36 * min(len(values), 14)))
    places = np.arange(len(values))
    axes.barh(places, values, height=0.65, color=ORANGE)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(f" {text}", (value, place), va="center", fontsize=_FONT_POINTS - 1)
    axes.set_yticks(places, labels)
    axes.set_xlim(0, 1.22 * max([*values, 1e-9]))
    axes.grid(visible=False, axis="y")
    _label(axes, x, y)
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean over about a fortieth of the values, centred, shorter at the ends."""
    half = len(values) // 80
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return ((sums[high] - sums[low]) / (high - low)).tolist()
