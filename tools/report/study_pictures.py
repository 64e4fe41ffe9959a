"""The pictures of a study's report, but for its mosaics."""

import statistics

import numpy as np

from engine.run_plan import build_schedule
from pipeline.shards.data_sets import training_samples
from tools.report.page import Picture
from tools.report.plot import Look, Series, draw_lines, draw_points, looks, smoothed
from tools.report.study_files import FULL, Study
from tools.study.result import VariantResult

_TIMES = {"train_wall_s": "seconds of training", "train_cpu_s": "seconds of training, CPU time"}
_OVER_TIME = "Top-1 with all patches on the validation set while training goes on: means over the seeds."


def _colour_group(variant: VariantResult) -> str:
    """Variants of one schedule belong together; those of a constant rate are each a thing of its own."""
    return variant.name.partition("@")[0] if variant.schedule == "constant" else variant.schedule


def variant_looks(study: Study) -> dict[str, Look]:
    """Variants of one schedule have one colour; markers and dashes tell them apart."""
    pairs = [(_colour_group(variant), variant.rule) for variant in study.variants]
    return dict(zip((variant.name for variant in study.variants), looks(pairs), strict=True))


def draw_time_and_accuracy(study: Study) -> Picture:
    """A point for each variant: time against the reference, and top-1 with all patches.

    Raises:
        ValueError: there is nothing to draw.
    """
    pairs = [(_colour_group(variant), variant.rule) for variant in study.variants]
    chosen = looks([*pairs, *((_colour_group(variant), "less time") for variant in study.equal_time)])
    points, widths = [], []
    for variant, look in zip((*study.variants, *study.equal_time), chosen, strict=True):
        measured = variant.top1(FULL)
        if measured is None or variant.time_ratio is None:
            continue
        mean, spread = measured
        points.append(Series(variant.name, [variant.time_ratio], [100 * mean], look, [100 * (spread or 0.0)]))
        widths.append(variant.time_ratio_stdev or 0.0)
    if not points:
        raise ValueError("no variant has both a time ratio and a top-1")
    reference = study.variant(study.reference)
    level = reference.top1(FULL) if reference else None
    drawn = draw_points(
        points,
        f"{study.clock}, {study.reference} = 1",
        "top-1 at full patches, %",
        widths,
        100 * level[0] if level else None,
    )
    alt = "; ".join(f"{one.label}: time {one.x[0]:.2f}, top-1 {one.y[0]:.2f} %" for one in points)
    caption = f"Bars are one standard deviation over the seeds; the dashed line is {study.reference}."
    return Picture("time-accuracy", drawn, f"Time against accuracy. {alt}", caption)


def _curve(variant: VariantResult, time_key: str) -> tuple[list[float], list[float]]:
    """Training time and top-1 in percent at each validation, means over the seeds."""
    at: dict[int, list[tuple[float, float]]] = {}
    for run in variant.runs:
        for point in run.get("curve") or []:
            if FULL in point["top1"]:
                at.setdefault(point["step"], []).append((point[time_key], 100 * point["top1"][FULL]))
    means = [tuple(map(statistics.mean, zip(*at[step], strict=True))) for step in sorted(at)]
    return [time for time, _ in means], [top1 for _, top1 in means]


def draw_accuracy_over_time(study: Study) -> Picture:
    """Raises ValueError where no run tells of validations on its way."""
    chosen, time_key = variant_looks(study), study.time_key()
    series = [Series(variant.name, *_curve(variant, time_key), chosen[variant.name]) for variant in study.variants]
    series = [one for one in series if one.x]
    if not series:
        raise ValueError("no run tells of validations on its way")
    alt = "; ".join(f"{one.label}: {one.y[-1]:.2f} % after {one.x[-1]:.0f} s" for one in series)
    drawn = draw_lines(series, _TIMES[time_key], "top-1 at full patches, %")
    return Picture("accuracy-time", drawn, f"Accuracy over time. {alt}", _OVER_TIME)


def draw_accuracy_over_keep_rate(study: Study) -> Picture:
    """Top-1 of the trained models where they look at fewer patches, means over the seeds with their spread.

    Raises:
        ValueError: no variant was validated at several keep rates.
    """
    chosen, series = variant_looks(study), []
    for variant in study.variants:
        rates = sorted({float(rate) for run in variant.runs for rate in run["top1"]})
        measured = [(rate, variant.top1(str(rate))) for rate in rates]
        points = [(rate, 100 * found[0], 100 * (found[1] or 0.0)) for rate, found in measured if found is not None]
        if len(points) > 1:
            x, y, spread = map(list, zip(*points, strict=True))
            series.append(Series(variant.name, x, y, chosen[variant.name], spread))
    if not series:
        raise ValueError("no variant was validated at several keep rates")
    alt = "; ".join(
        f"{one.label}: {one.y[0]:.2f} % at {one.x[0]:g}, {one.y[-1]:.2f} % at {one.x[-1]:g}" for one in series
    )
    caption = "Each trained model at several keep rates, its patches chosen by the rule that it was trained with."
    drawn = draw_lines(series, "keep rate at validation", "top-1, %")
    return Picture("accuracy-keep-rate", drawn, f"Accuracy over keep rate. {alt}", caption)


def draw_losses(study: Study) -> list[Picture]:
    """The running mean of the training loss over time, of each variant's first seed.

    Raises:
        ValueError: no run tells its loss.
    """
    chosen, time_key, series = variant_looks(study), study.time_key(), []
    for variant in study.variants:
        lines: list[dict[str, float]] = next((run["loss"] for run in variant.runs if run.get("loss")), [])
        times = [line[time_key] for line in lines]
        if lines:
            look = chosen[variant.name]
            losses = smoothed([line["loss"] for line in lines])
            series.append(Series(variant.name, times, losses, look))
    if not series:
        raise ValueError("no run tells its loss")
    alt = "; ".join(f"{one.label}: {one.y[-1]:.3f}" for one in series)
    drawn = draw_lines(series, _TIMES[time_key], "training loss, running mean")
    return [
        Picture(
            "loss-time", drawn, f"Training loss over time, at the end {alt}", "Training loss over the training time."
        )
    ]


def draw_keep_rates(study: Study) -> list[Picture]:
    """A picture for each different schedule, of all variants that have it.

    Raises:
        ValueError, OSError: no variant's configuration was found, or a training set's size is not known.
    """
    same: dict[Series, list[str]] = {}
    for name, config in study.configs.items():
        num_samples = training_samples(config.data)
        schedule = build_schedule(config, num_samples)
        steps = np.unique(np.linspace(0, schedule.total_steps - 1, 400).astype(np.int64))
        rates = schedule.keep_rates(steps).tolist()
        # The end point gives the last step its width.
        x, y = (*steps.tolist(), schedule.total_steps), (*rates, rates[-1])
        same.setdefault(Series("keep rate", x, y, steps=True), []).append(name)
    if not same:
        raise ValueError("no run's configuration was found")
    found = []
    for number, (series, names) in enumerate(same.items(), start=1):
        drawn = draw_lines([series], "step", "keep rate", y_from_zero=True, y_top=1.08, height=2.2)
        ends = f"from {series.y[0]:g} to {series.y[-1]:g}, at least {min(series.y):g}"
        alt = f"Keep rate over {series.x[-1]:.0f} steps: {ends}"
        found.append(Picture(f"keep-rate-{number}", drawn, alt, ", ".join(names)))
    return found
