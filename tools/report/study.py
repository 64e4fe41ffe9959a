"""The report of a study: what was compared and what came out, in words, one table and pictures."""

from functools import partial
from xml.etree.ElementTree import Element

from engine.config import dump_config
from tools.report.findings import findings
from tools.report.mosaic import mosaics
from tools.report.page import Picture, Report, mean_and_spread, table, tag
from tools.report.run import MOSAIC_TEXT, hardware_list
from tools.report.study_files import FULL, Study
from tools.report.study_pictures import (
    draw_accuracy_over_keep_rate,
    draw_accuracy_over_time,
    draw_keep_rates,
    draw_losses,
    draw_time_and_accuracy,
)
from tools.report.study_sweep import SWEEP_TEXT, draw_sweep, sweep_table, swept
from tools.study.result import VariantResult

_LOW = "0.4"  # the second keep rate of the table, as the keys of a study write it


def report_study(study: Study) -> Report:
    """Everything about a study; what is not there is said."""
    report = Report(study.name, _kind(study), findings(study), [], [], list(study.absent))
    if not study.variants:
        report.absent.append("Results: no variant has a finished run yet")
    else:
        report.sections.append(("Results", [_results(study)]))
        _add_validation_sets(study, report)
        _add_pictures(study, report)
        _add_sweep(study, report)
        _add_speed(study, report)
    if study.equal_time:
        report.sections.append(("The same time for full patches", [tag("p", _EQUAL_TIME), _equal_time(study)]))
    else:
        report.absent.append("Full patches for the time that a schedule takes: the study has no such runs")
    _add_mosaics(study, report)
    report.sections.append(("What the variants are", [_descriptions(study)]))
    if study.config is not None:
        text = f"Of {study.config_of}; the table above says what the other variants change."
        report.sections.append(("Configuration", [tag("p", text), tag("pre", dump_config(study.config))]))
    _add_hardware(study, report)
    if study.result.missing or not study.result.complete:
        gaps = ", ".join(study.result.missing) or "it does not say what"
        report.absent.append(f"The study is not complete; missing: {gaps}")
    return report


_EQUAL_TIME = (
    "A schedule saves time; training with all patches for fewer steps saves time as well. These runs used all patches "
    "for less time; beside each stands the variant that took about as long."
)


def _kind(study: Study) -> str:
    seeds = ", ".join(map(str, study.result.seeds))
    runs = sum(len(variant.runs) for variant in (*study.variants, *study.equal_time))
    return f"A study: {len(study.variants)} variants, seeds {seeds}, {runs} runs"


def _cells(study: Study, variant: VariantResult) -> list[str]:
    full, low = variant.top1(FULL), variant.top1(_LOW)
    difference = study.difference(variant)
    return [
        variant.rule,
        "-" if variant.mean_keep_rate is None else f"{variant.mean_keep_rate:.3f}",
        _time_ratio(variant),
        mean_and_spread(*full) if full else "-",
        mean_and_spread(*low) if low else "-",
        "reference" if variant.name == study.reference else "-" if difference is None else _signed(*difference),
        f"{len(variant.runs)}",
    ]


def _time_ratio(variant: VariantResult) -> str:
    if variant.time_ratio is None:
        return "-"
    text = mean_and_spread(variant.time_ratio, variant.time_ratio_stdev, factor=1)
    return text if variant.num_timed == len(variant.runs) else f"{text} ({variant.num_timed} of {len(variant.runs)})"


def _signed(mean: float, spread: float | None) -> str:
    text = f"{100 * mean:+.2f}"
    return text if spread is None else f"{text} ± {100 * spread:.2f}"


def _results(study: Study) -> Element:
    head = [
        "variant",
        "rule",
        "mean keep rate",
        "time ratio",
        "top-1 at 1.0, %",
        f"top-1 at {_LOW}, %",
        "to reference",
        "runs",
    ]
    caption = (
        f"Mean ± standard deviation over the seeds. Time ratio: {study.clock} against {study.reference}, paired by "
        "seed (in brackets: of how many runs, if the reference of the others is not finished or was trained on other "
        "hardware). To reference: difference of top-1 with all patches, in percentage points, paired by seed. Top-1 at "
        f"1.0 and {_LOW}: the model looks at that share of the patches of each validation image, chosen by the rule."
    )
    return table(head, [[v.name, *_cells(study, v)] for v in study.variants], caption=caption, text_columns=(0, 1))


def _add_validation_sets(study: Study, report: Report) -> None:
    """Accuracy on each of several validation sets; nothing where there is one."""
    rows = [*study.variants, *study.equal_time]
    names = list(dict.fromkeys(name for variant in rows for name in variant.val_top1_mean))
    if not names:
        return
    columns = [(name, rate) for name in names for rate in (FULL, _LOW)]
    head = ["variant", *(f"{name}, top-1 at {rate}, %" for name, rate in columns)]
    cells = [[variant.name, *(_on_set(variant, name, rate) for name, rate in columns)] for variant in rows]
    text = f"Results, curves over time and keep rate, and the sentences above are of the first set, {names[0]}."
    caption = "Mean ± standard deviation over the seeds."
    report.sections.append(("Each validation set by itself", [tag("p", text), table(head, cells, caption=caption)]))


def _on_set(variant: VariantResult, name: str, rate: str) -> str:
    mean = variant.val_top1_mean.get(name, {}).get(rate)
    return "-" if mean is None else mean_and_spread(mean, variant.val_top1_stdev[name][rate])


def _equal_time(study: Study) -> Element:
    head = ["full patches", "beside", "time ratio", "top-1 at 1.0, %", "top-1 of the variant, %"]
    rows = []
    for short in study.equal_time:
        beside = study.beside(short)
        own, other = short.top1(FULL), beside.top1(FULL) if beside else None
        rows.append(
            [
                short.name,
                beside.name if beside else "-",
                _time_ratio(short),
                mean_and_spread(*own) if own else "-",
                mean_and_spread(*other) if other else "-",
            ]
        )
    return table(head, rows, text_columns=(0, 1))


def _descriptions(study: Study) -> Element:
    head = ["variant", "what it is", "schedule", "rule", "changed settings"]
    rows = [
        [
            variant.name,
            variant.description or "-",
            variant.schedule,
            variant.rule,
            ", ".join(f"{key}: {value}" for key, value in variant.overrides.items()) or "none",
        ]
        for variant in (*study.variants, *study.equal_time)
    ]
    return table(head, rows, text_columns=range(5))


def _add_pictures(study: Study, report: Report) -> None:
    report.add_pictures_or_say(
        "Accuracy and time",
        "Left is faster, up is more accurate. Variants of one schedule have one colour; markers tell them apart.",
        lambda: [draw_time_and_accuracy(study)],
        lambda: [draw_accuracy_over_time(study)],
    )
    report.add_pictures_or_say(
        "Fewer patches after training",
        "A trained model can be asked to look at fewer patches: how its accuracy falls.",
        lambda: [draw_accuracy_over_keep_rate(study)],
    )
    report.add_pictures_or_say(
        "Keep rates",
        "The share of the patches that the pipeline hands to the model at each step.",
        lambda: draw_keep_rates(study),
    )
    report.add_pictures_or_say(
        "Training loss", "A running mean, of one seed of each variant.", lambda: draw_losses(study)
    )


def _add_sweep(study: Study, report: Report) -> None:
    rows, unknown = swept(study)
    if rows:
        report.add_pictures("Which patches a trained model is shown", SWEEP_TEXT, [draw_sweep(rows)])
        report.sections[-1][1].append(sweep_table(rows))
    else:
        report.absent.append(
            "Other rules at validation: no sweep; python -m tools.sweep RUN ... --out DIR/sweep makes one"
        )
    if unknown:
        report.absent.append(f"Sweeps of {', '.join(unknown)}: not of a run of this study, or of other weights")


def _add_speed(study: Study, report: Report) -> None:
    """Images per second and loader wait of each variant at each of its keep rates, means over the seeds."""
    speeds = {variant.name: variant.stage_speeds() for variant in study.variants}
    rates = sorted({rate for found in speeds.values() for rate in found}, reverse=True)
    if not rates:
        report.absent.append("Speed per stage: no run tells it")
        return
    rows = [
        [name, *(f"{found[rate][0]:,.0f} ({found[rate][1]:.1%})" if rate in found else "-" for rate in rates)]
        for name, found in speeds.items()
    ]
    caption = (
        "Images per second over all ranks, and in brackets the share of the time in which training waits for the "
        "loader; means over the seeds. -: the schedule has no step at this rate."
    )
    head = ["variant", *(f"keep {rate:.3g}" for rate in rates)]
    report.sections.append(("Speed per stage", [table(head, rows, caption=caption)]))


def _add_mosaics(study: Study, report: Report) -> None:
    if study.config is None:
        report.absent.append("Kept patches: without a run's configuration its images are not known")
        return
    report.add_pictures_or_say("Kept patches", MOSAIC_TEXT, partial(_mosaics, study, report))


def _mosaics(study: Study, report: Report) -> list[Picture]:
    assert study.config is not None
    pictures, absent = mosaics(study.config, study.finished_run)
    report.absent += absent
    return pictures


def _add_hardware(study: Study, report: Report) -> None:
    content = []
    if study.hardware:
        content.append(hardware_list(study.hardware))
    if study.versions:
        content.append(hardware_list(study.versions))
    if content:
        report.sections.append(("Hardware and versions", content))
    else:
        report.absent.append("Hardware and versions: study.json does not tell them")
    if study.other_hardware:
        report.absent.append(f"Runs on other hardware than that shown: {'; '.join(study.other_hardware)}")
