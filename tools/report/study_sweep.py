"""A study's trained models under other rules than the one each was validated with: a part of its report."""

import statistics
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tools.report.page import Picture, mean_and_spread, table
from tools.report.plot import Series, draw_lines, looks
from tools.report.study_files import Study
from tools.study.result import mean_and_stdev

SWEEP_TEXT = (
    "The results above show each trained model patches by one rule. Here the same models are shown patches by several, "
    "so that variants can be compared at the rule that suits each best."
)


@dataclass(frozen=True)
class Swept:
    """A variant's trained models under one rule.

    Attributes:
        top1: of each seed (a share of 1), by keep rate.
    """

    variant: str
    rule: str
    top1: dict[float, list[float]]

    def mean(self, keep_rate: float) -> float:
        return statistics.mean(self.top1[keep_rate])


def swept(study: Study) -> tuple[list[Swept], list[str]]:
    """The lines of the study's sweep by variant and rule, in the study's order, and the runs that are left out.

    A line counts where it is of a run of the study and of the weights that this run ended with.
    """
    runs = {
        f"{variant.name}-seed{run.get('seed')}": (variant.name, run.get("weights_digest"))
        for variant in study.variants
        for run in variant.runs
    }
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    unknown: dict[str, None] = {}
    for line in study.sweep:
        variant, digest = runs.get(line["run"], ("", None))
        if not variant or line.get("weights_digest") != digest:
            unknown[line["run"]] = None
            continue
        found.setdefault((variant, line["rule"]), {}).setdefault(line["keep_rate"], []).append(line["top1"])
    order = [variant.name for variant in study.variants]
    ordered = sorted(found.items(), key=lambda one: order.index(one[0][0]))
    return [Swept(variant, rule, top1) for (variant, rule), top1 in ordered], list(unknown)


def draw_sweep(rows: list[Swept]) -> Picture:
    """Top-1 over the keep rate, a colour for each variant and a marker for each rule."""
    series = []
    for row, look in zip(rows, looks([(row.variant, row.rule) for row in rows]), strict=True):
        rates = sorted(row.top1)
        means = [100 * row.mean(rate) for rate in rates]
        series.append(Series(f"{row.variant}, {row.rule}", rates, means, look))
    alt = "; ".join(f"{one.label}: {one.y[0]:.2f} % at {one.x[0]:g}" for one in series)
    drawn = draw_lines(series, "keep rate at validation", "top-1, %")
    caption = "Each variant with patches by each rule, means over the seeds."
    return Picture("rules-keep-rate", drawn, f"Accuracy over keep rate by rule. {alt}", caption)


def sweep_table(rows: list[Swept]) -> Element:
    """A line for each variant and rule, with the spread over the seeds."""
    rates = sorted({rate for row in rows for rate in row.top1}, reverse=True)
    cells = [[row.variant, row.rule, *(_cell(row, rate) for rate in rates), f"{_num_runs(row)}"] for row in rows]
    head = ["variant", "patches by", *(f"top-1 at {rate:g}, %" for rate in rates), "runs"]
    return table(head, cells, caption="Mean ± standard deviation over the seeds.", text_columns=(0, 1))


def _cell(row: Swept, rate: float) -> str:
    measured = mean_and_stdev(row.top1.get(rate, []))
    return mean_and_spread(*measured) if measured else "-"


def _num_runs(row: Swept) -> str:
    fewest, most = (extreme(map(len, row.top1.values())) for extreme in (min, max))
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def best_rules(study: Study, keep_rate: float) -> str | None:
    """A sentence on the reference and the best variant at ``keep_rate``, each under the rule that suits it best."""
    rows = [row for row in swept(study)[0] if keep_rate in row.top1]
    own = max((r for r in rows if r.variant == study.reference), key=lambda row: row.mean(keep_rate), default=None)
    other = max((r for r in rows if r.variant != study.reference), key=lambda row: row.mean(keep_rate), default=None)
    if own is None or other is None:
        return None
    return (
        f"Which rule chooses those patches matters. With the rule that suits each best, {own.variant} has "
        f"{own.mean(keep_rate):.2%} (by {own.rule}) and {other.variant} {other.mean(keep_rate):.2%} (by {other.rule})."
    )
