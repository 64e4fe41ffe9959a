"""The report of one run: what its folder holds, in sentences, tables and pictures."""

from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

from engine.config import RunConfig, dump_config
from engine.metrics import rows_by_keep_rate, sizes_of
from tools.report.files import RunFiles
from tools.report.mosaic import mosaics, run_rule
from tools.report.page import Picture, Report, pairs, table, tag
from tools.report.run_pictures import draw_losses, draw_schedule, draw_speed, draw_sweep, draw_validation

_SIZES_HEAD = "image / patch, pixels"
_HARDWARE_WORDS = {
    "cpu": "processor",
    "memory_gib": "memory, GiB",
    "gpus": "GPUs",
    "numa_nodes": "NUMA nodes",
    "cuda": "CUDA",
}


def report_run(run: RunFiles) -> Report:
    """Everything about a run; what is not there is said."""
    report = Report(f"Run {run.config.name}", _kind(run.config), _findings(run), [], [], _absences(run))
    report.sections.append(("Results", [_results(run)])) if run.summary else None
    if run.train:
        report.add_pictures("Loss", "The faint line is each logged step, the other its running mean.", draw_losses(run))
    if run.evals:
        what = "On the validation set, a line for each keep rate; on each set where there are several."
        report.add_pictures(f"Validation: {run.measure}", what, draw_validation(run))
    if run.train:
        report.add_pictures("Schedule", "What the run did, step by step.", draw_schedule(run))
        report.add_pictures("Speed per stage", "Medians of the logged steps at each keep rate.", draw_speed(run))
    if run.sweep:
        report.add_pictures("Sweep", "The finished model at other keep rates and under other rules.", [draw_sweep(run)])
        report.sections[-1][1].append(_sweep_table(run))
    if run.profile:
        report.sections.append(("Profile", [tag("p", _profile_text(run.profile)), _profile_table(run.profile)]))
    report.add_pictures_or_say("Kept patches", MOSAIC_TEXT, partial(_mosaics, run, report))
    report.sections.append(("Configuration", [tag("pre", dump_config(run.config))]))
    if run.summary and "hardware" in run.summary:
        report.sections.append(("Hardware and versions", [hardware_list(run.summary["hardware"])]))
    return report


MOSAIC_TEXT = (
    "Images of the validation set as the model gets them. Patches that are not kept never reach it; here they are "
    "faded to a bluish grey."
)


def hardware_list(hardware: dict[str, Any]) -> Element:
    """Names and values of ``engine.ranks.hardware.describe_hardware``."""
    shown = {
        _HARDWARE_WORDS.get(name, name): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in hardware.items()
    }
    return pairs({name: value or "none" for name, value in shown.items()})


def _kind(config: RunConfig) -> str:
    what = "reconstruction pre-training" if config.task == "pretrain" else "classification"
    train = config.data.train
    data = ", ".join(str(one.folder) for one in train) if isinstance(train, tuple) else str(train)
    return f"One run of {what}: {config.model.name} on {data}"


def _findings(run: RunFiles) -> list[str]:
    config, summary = run.config, run.summary
    schedule = (
        f"A {config.model.name} saw images of {config.data.image_size} x {config.data.image_size} pixels as "
        f"{config.data.num_patches} patches; the schedule ({config.schedule.kind}) said at each step which share of "
        f"them, and the rule {run_rule(config)[0] if run_rule(config) else config.selection.rule} which ones."
        f"{_sizes_in_words(config)}"
    )
    if summary is None:
        done = run.train[-1]["step"] + 1 if run.train else 0
        return [schedule, f"The run is not done: {done:,} steps are in its metrics."]
    measured = summary.get("top1") or summary["reconstruction_loss"]
    results = _values_by_rate(run, measured)
    time = (
        f"It trained {summary['steps']:,} steps at a mean keep rate of {summary['mean_keep_rate']:.3f} in "
        f"{summary['train_wall_s']:,.0f} s, {summary['images_per_s']:,.0f} images/s{_on_ranks(summary)}."
    )
    full_s = summary.get("full_patches_train_wall_s")
    if full_s and summary["mean_keep_rate"] < 1:
        time += (
            f" By its own steps at full patches, as many of those would have taken {full_s:,.0f} s: the run took "
            f"{summary['train_wall_s'] / full_s:.0%} of that."
        )
    held = summary.get("val") or {}
    first, *others = held or ["the validation set"]
    ends = [f"On {first} it ends at a {run.measure} of {results}."]
    for name in others:
        of_set = held[name].get("top1") or held[name]["reconstruction_loss"]
        ends.append(f"On {name} it ends at a {run.measure} of {_values_by_rate(run, of_set)}.")
    return [schedule, *ends, time]


def _values_by_rate(run: RunFiles, measured: dict[str, float]) -> str:
    return ", ".join(f"{_value(run, value)} at keep rate {float(rate):g}" for rate, value in measured.items())


def _sizes_in_words(config: RunConfig) -> str:
    """A sentence where the sizes of images or patches follow a schedule of their own."""
    told = [
        f"{axis.replace('_size', 's')} of {min(one.named)} to {max(one.named)} pixels ({one.kind})"
        for axis, one in config.schedule.sizes.items()
    ]
    return f" Those are the full sizes: by the step it was trained on {' and '.join(told)}." if told else ""


def _on_ranks(summary: dict[str, Any]) -> str:
    return f" on {summary['ranks']} rank(s)" if "ranks" in summary else ""


def _absences(run: RunFiles) -> list[str]:
    absent = []
    if not run.train:
        absent.append("Loss, schedule and speed: there are no training steps in metrics.jsonl")
    if not run.evals:
        absent.append("Validation over the run: there is no validation in metrics.jsonl")
    if run.summary is None:
        absent.append("Results, hardware and versions: the run is not done (no summary.json)")
    elif "hardware" not in run.summary:
        absent.append("Hardware and versions: summary.json does not tell them (it was written by an earlier version)")
    if not run.sweep:
        absent.append("Sweep: not done for this run; python -m tools.sweep RUN makes one, --sweep FILE names another")
    if run.profile is None:
        absent.append("Profile: none was given; --profile FILE shows what python -m tools.profile --json FILE wrote")
    return absent


def _value(run: RunFiles, value: float) -> str:
    return f"{value:.4f}" if run.config.task == "pretrain" else f"{value:.2%}"


def _results(run: RunFiles) -> Element:
    assert run.summary is not None
    measured = run.summary.get("top1") or run.summary["reconstruction_loss"]
    with_sizes = len({sizes_of(stage) for stage in run.summary["stages"]}) > 1
    rows = []
    for rate, stage in rows_by_keep_rate(run.summary["stages"], measured):
        value = measured.get(str(rate))
        speed = ["-"] * 4
        if stage:
            speed = [f"{stage['num_kept']}", f"{stage['num_steps']:,}", f"{stage['images_per_s']:,.0f}"]
            speed.append(f"{stage['loader_wait_share']:.1%}")
        sizes = (["{} / {}".format(*sizes_of(stage))] if stage else ["-"]) if with_sizes else []
        rows.append([f"{rate:g}", "-" if value is None else _value(run, value), *speed, *sizes])
    head = ["keep rate", run.measure, "patches", "steps trained", "images/s", "loader wait"]
    head += [_SIZES_HEAD] if with_sizes else []
    caption = "-: not validated, or not trained, at this rate. Loader wait is its share of the step's time."
    caption += f" Validated on {next(iter(run.summary['val']))}." if "val" in run.summary else ""
    return table(head, rows, caption=caption)


def _sweep_table(run: RunFiles) -> Element:
    head = ["rule", "keep rate", "patches", "top-1", "top-5", "images/s", "MFLOPs/image", "bytes/image"]
    rows = [
        [
            one["rule"],
            f"{one['keep_rate']:g}",
            f"{one['num_kept']}",
            f"{one['top1']:.2%}",
            f"{one['top5']:.2%}",
            f"{one['images_per_s']:,.0f}",
            f"{one['forward_flops_per_image'] / 1e6:,.1f}",
            f"{one['bytes_per_image']:,}",
        ]
        for one in run.sweep
    ]
    return table(head, rows, caption="Whole passes over the validation set, the loader's start included.")


def _mosaics(run: RunFiles, report: Report) -> list[Picture]:
    finished = run.folder if (run.folder / "model").is_dir() else None
    pictures, absent = mosaics(run.config, finished, run_rule(run.config))
    report.absent += absent
    return pictures


def _profile_text(profile: dict[str, Any]) -> str:
    return f"Throughput per stage, measured with {profile.get('command', 'tools.profile')}."


def _profile_table(profile: dict[str, Any]) -> Element:
    sides = [("loader", "loader alone"), ("step", "step alone"), ("end_to_end", "both together")]
    with_sizes = len({sizes_of(stage) for stage in profile["stages"]}) > 1
    rows = []
    for stage in profile["stages"]:
        speeds = [_speed(stage.get(f"{key}_images_per_s")) for key, _ in sides]
        sizes = ["{} / {}".format(*sizes_of(stage))] if with_sizes else []
        rows.append([f"{stage['keep_rate']:.3g}", f"{stage['num_kept']}", *speeds, *sizes])
    head = ["keep rate", "patches", *(f"{words}, images/s" for _, words in sides)]
    head += [_SIZES_HEAD] if with_sizes else []
    return table(head, rows, caption="Medians over the repeats. -: not measured.")


def _speed(images_per_s: float | None) -> str:
    return "-" if images_per_s is None else f"{images_per_s:,.0f}"
