"""The pictures of a run's report, but for its mosaics."""

from engine.metrics import sizes_of, stage_table
from tools.report.files import RunFiles
from tools.report.page import Picture
from tools.report.plot import Series, draw_bars, draw_lines, looks, smoothed

_MAX_BARS = 14


def draw_losses(run: RunFiles) -> list[Picture]:
    """Training loss over steps and over time."""
    losses = [line["loss"] for line in run.train]
    found = []
    for name, key, x in (("loss-steps", "step", "step"), ("loss-time", "at_s", "seconds of training")):
        at = [line[key] for line in run.train]
        series = [Series("each", at, losses, faint=True), Series("mean", at, smoothed(losses))]
        over = "steps" if key == "step" else "time"
        alt = f"Training loss over {over}, from {losses[0]:.3f} to {losses[-1]:.3f}"
        found.append(Picture(name, draw_lines(series, x, "training loss"), alt, f"Training loss over {over}."))
    return found


def draw_validation(run: RunFiles) -> list[Picture]:
    """Accuracy, or reconstruction loss, over steps and over time, a line for each validation set and keep rate."""
    sets = dict.fromkeys(line.get("val") for line in run.evals)
    rates = sorted({line["keep_rate"] for line in run.evals}, reverse=True)
    each = {(name, rate): f"{rate}" if name is None else f"{name} {rate}" for name in sets for rate in rates}
    factor, key = (1, "loss") if run.config.task == "pretrain" else (100, "top1")
    unit = "" if factor == 1 else ", %"
    found = []
    for over, x in (("steps", "steps trained"), ("time", "seconds of training")):
        series = []
        for (name, rate), look in zip(each, looks([(one, one) for one in each.values()]), strict=True):
            lines = [line for line in run.evals if line["keep_rate"] == rate and line.get("val") == name]
            if not lines:
                continue
            at = [line["step"] if over == "steps" else run.time_at(line["step"]) for line in lines]
            label = f"keep {rate:g}" if name is None else f"{name}, keep {rate:g}"
            series.append(Series(label, at, [factor * line[key] for line in lines], look))
        last = ", ".join(f"{one.y[-1]:.4g} at {one.label}" for one in series)
        alt = f"{run.measure} on the validation set over {over}; at the end {last}"
        found.append(
            Picture(f"validation-{over}", draw_lines(series, x, run.measure + unit), alt, f"{run.measure} over {over}.")
        )
    return found


def draw_schedule(run: RunFiles) -> list[Picture]:
    """Keep rate, sizes of images and patches where they change, and learning rate over the steps."""
    # A line speaks of the steps up to its own: its rate holds from the line before on.
    starts = [line["step"] + 1 - line["interval_steps"] for line in run.train]
    rates = [line["keep_rate"] for line in run.train]
    end = run.train[-1]["step"] + 1
    kept = Series("keep rate", [*starts, end], [*rates, rates[-1]], steps=True)
    learning = Series("lr", [line["step"] for line in run.train], [line["lr"] for line in run.train])
    low, high = min(rates), max(rates)
    return [
        Picture(
            "keep-rate",
            draw_lines([kept], "step", "keep rate", y_from_zero=True, y_top=1.08, height=2.6),
            f"Keep rate over the steps: between {low:g} and {high:g}",
            f"The share of the patches that the model sees: {low:g} to {high:g}.",
        ),
        *(_draw_sizes(run, axis, words, [*starts, end]) for axis, words in _SIZES.items() if _changes(run, axis)),
        Picture(
            "learning-rate",
            draw_lines([learning], "step", "learning rate", y_from_zero=True, height=2.6),
            "Learning rate over the steps",
            "The learning rate.",
        ),
    ]


_SIZES = {"image_size": "image", "patch_size": "patch"}


def _changes(run: RunFiles, axis: str) -> bool:
    """Whether a size is told, and not the same throughout. Earlier versions told none."""
    return len({line[axis] for line in run.train if line.get(axis)}) > 1 and all(line.get(axis) for line in run.train)


def _draw_sizes(run: RunFiles, axis: str, words: str, steps: list[int]) -> Picture:
    sizes = [line[axis] for line in run.train]
    drawn = Series(axis, steps, [*sizes, sizes[-1]], steps=True)
    text = f"between {min(sizes)} and {max(sizes)} pixels"
    return Picture(
        axis.replace("_", "-"),
        draw_lines([drawn], "step", f"{words} size, pixels", y_from_zero=True, height=2.6),
        f"Side of the {words} over the steps: {text}",
        f"The side of the {words}: {text}.",
    )


def draw_speed(run: RunFiles) -> list[Picture]:
    """Images per second and loader wait of each stage."""
    stages = stage_table(run.train)[:_MAX_BARS]
    with_sizes = len({sizes_of(stage) for stage in stages}) > 1
    labels = [
        f"{stage['keep_rate']:.3g}" + (" of {} / {}".format(*sizes_of(stage)) if with_sizes else "") for stage in stages
    ]
    speeds, waits = [s["images_per_s"] for s in stages], [100 * s["loader_wait_share"] for s in stages]
    texts = [f"{speed:,.0f}" for speed in speeds], [f"{wait:.1f} %" for wait in waits]
    alts = [
        "; ".join(f"{text} at keep {label}" for text, label in zip(column, labels, strict=True)) for column in texts
    ]
    return [
        Picture(
            "images-per-s",
            draw_bars(labels, speeds, texts[0], "images/s", "keep rate"),
            f"Images per second: {alts[0]}",
            "Images per second over all ranks.",
        ),
        Picture(
            "loader-wait",
            draw_bars(labels, waits, texts[1], "loader wait, % of the step", "keep rate"),
            f"Loader wait: {alts[1]}",
            "Share of the step's time in which training waits for the loader.",
        ),
    ]


def draw_sweep(run: RunFiles) -> Picture:
    """Accuracy over the keep rate, a line for each rule (and run, where there are several)."""
    groups = list(dict.fromkeys((line["run"], line["rule"]) for line in run.sweep))
    series = []
    for (name, rule), look in zip(groups, looks([(rule, name) for name, rule in groups]), strict=True):
        lines = sorted(
            (line for line in run.sweep if (line["run"], line["rule"]) == (name, rule)),
            key=lambda one: one["keep_rate"],
        )
        label = rule if len({name for name, _ in groups}) == 1 else f"{name}, {rule}"
        series.append(Series(label, [one["keep_rate"] for one in lines], [100 * one["top1"] for one in lines], look))
    drawn = draw_lines(series, "keep rate", "top-1, %", y_from_zero=True)
    rules = ", ".join(one.label for one in series)
    return Picture("sweep", drawn, f"Top-1 accuracy over the keep rate: {rules}", "Top-1 accuracy over the keep rate.")
