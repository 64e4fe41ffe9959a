"""The table's raw result, and the two pages that are written from it: what is promised, and the table itself."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Outcome
from benchmarks.faults.report_rows import addressable_rows, addressable_section, rows_of
from engine.ranks.hardware import describe_hardware

RESULTS = Path("benchmarks/results")
RESULT = RESULTS / "faults.json"
ADDRESSABLE_RESULT, DAMAGED_RESULT = RESULTS / "faults_addressable.json", RESULTS / "damaged_jpegs.json"
DOCS, TABLE = Path("docs/reliability.md"), Path("benchmarks/faults/table.md")

_PROMISES = Path(__file__).with_name("promises.md")
_MISTAKES = Path(__file__).with_name("mistakes.md")


def write_result(outcomes: list[Outcome], minutes: float, path: Path) -> None:
    """Write the raw result."""
    result = {
        "command": "python -m benchmarks.faults" + (" --addressable" if path == ADDRESSABLE_RESULT else ""),
        "hardware": describe_hardware(),
        "minutes": round(minutes, 1),
        "num_cases": len(outcomes),
        "num_ok": sum(outcome.checks.ok for outcome in outcomes),
        "cases": [outcome.as_json() for outcome in outcomes],
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def write_again(outcomes: list[Outcome], path: Path) -> None:
    """Put cases that were repeated by themselves in their old places in the raw result, marked."""
    result = json.loads(path.read_text())
    repeated = {(outcome.case.group, outcome.case.name): outcome.as_json() for outcome in outcomes}
    result["cases"] = [
        {**again, "repeated": True} if (again := repeated.get((case["group"], case["name"]))) else case
        for case in result["cases"]
    ]
    result["num_ok"] = sum(case["ok"] for case in result["cases"])
    path.write_text(json.dumps(result, indent=2) + "\n")


def write_docs() -> None:
    """Write the page and the table from the raw results that there are."""
    result = json.loads(RESULT.read_text())
    others = *_killed_at_random(), *_seeking(), *_soaked(), *addressable_section(ADDRESSABLE_RESULT, DAMAGED_RESULT)
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text("\n".join([_PROMISES.read_text(), _MISTAKES.read_text(), *_counts(result), *others]))
    TABLE.write_text("\n".join([*_table(result), *addressable_rows(ADDRESSABLE_RESULT)]))
    print(f"{DOCS} and {TABLE} are written")


def _counts(result: dict[str, Any]) -> list[str]:
    machine = result["hardware"]
    lines = [
        "## The fault table",
        "",
        f"`{result['command']}`: {result['num_cases']} ways to break a run, each with what was expected and what was "
        f"observed. **{result['num_ok']} of {result['num_cases']}** went as expected, in {result['minutes']:.0f} "
        f"minutes on {machine['cores']} cores ({machine['cpu']}; {machine['system']}). All of them: "
        f"[`{TABLE}`](../{TABLE}). Raw result: [`{RESULT}`](../{RESULT}).",
        "",
        "| group | cases | as expected |",
        "|---|---|---|",
    ]
    for group, grouped in groupby(result["cases"], key=lambda case: case["group"]):
        cases = list(grouped)
        lines.append(f"| {group} | {len(cases)} | {sum(case['ok'] for case in cases)} |")
    return [*lines, ""]


def _table(result: dict[str, Any]) -> list[str]:
    lines = [
        "# The fault table",
        "",
        "Written by `python -m benchmarks.faults` from its raw result; do not edit. What is promised: "
        f"[`{DOCS}`](../../{DOCS}).",
        "",
        f"Everything that was expected and observed is in [`{RESULT}`](../../{RESULT}); the column *observed* is a "
        "digest of it. Seconds are from the start of the processes to the last check, without the resume that follows: "
        "the runs of the first two groups are taken up again together in the end, against one that was left in peace.",
    ]
    repeated = [case["name"] for case in result["cases"] if case.get("repeated")]
    if repeated:
        lines += ["", f"Not as expected at first, and run again by themselves since: {', '.join(repeated)}."]
    for group, cases in groupby(result["cases"], key=lambda case: case["group"]):
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", *rows_of(cases)]
    return [*lines, ""]


def _killed_at_random() -> list[str]:
    found = {
        path: json.loads(path.read_text())
        for name in ("kill_and_resume", "kill_and_resume_everything", "kill_and_resume_all_axes")
        if (path := RESULTS / f"{name}.json").exists()
    }
    lines = ["## Killed at random", ""] if found else []
    for path, result in found.items():
        runs, equal = result["num_runs"], result["num_weights_equal"]
        lines += [
            f"`{result['command']}`: {runs} runs of {result['steps']} steps on {result['ranks']} ranks were killed "
            f"{result['num_kills']} times in all, at random moments (every process at once, a rank, `launch.py` or "
            f"`deepspeed`), and started again until done. **{equal} of {runs}** ended with the digest of the run that "
            f"was left in peace, {result['num_losses_equal']} with the same loss at every step and "
            f"{result['num_evaluations_equal']} with the same evaluations. Processes stayed behind in "
            f"{runs - result['num_no_orphans']} of them. Raw result: [`{path}`](../{path}).",
            "",
        ]
    return lines


def _soaked() -> list[str]:
    path = RESULTS / "soak.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    lines = [
        "## Over time",
        "",
        f"`{result['command']}`: the loader went over {result['loader_samples']:,} samples with the keep rate changing "
        f"at every step, then two ranks trained for {result['train_minutes']:.0f} minutes ({result['train_steps']:,} "
        "steps; other work ran on the machine) with checkpoints and evaluations in between. Means over the first and "
        f"the last third of the time after the start. Raw result: [`{path}`](../{path}).",
        "",
        "| process | memory, MiB | open files | threads |",
        "|---|---|---|---|",
    ]
    for name, growth in result["growth"].items():
        cells = [
            f"{growth[f'{key}_early']:.0f} → {growth[f'{key}_late']:.0f}"
            for key in ("rss_mib", "num_fds", "num_threads")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Memory is level between evaluations and moves at them, by more at the first ones: the allocator keeps what "
        "their larger batches needed.",
        "",
        f"![Memory, open files and threads over an hour](../{RESULTS / 'soak.png'})",
        "",
    ]


def _seeking() -> list[str]:
    path = RESULTS / "seek.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    lines = [
        "## Seeking",
        "",
        f"`{result['command']}`: the way to a step in the midst of {result['num_epochs']} epochs over "
        f"{result['num_samples']:,} samples in {result['num_shards']:,} shards, and the planning of steps of "
        f"{result['global_batch_size']:,} samples there (median, smallest and largest of random steps of an epoch). "
        "*Mapped* columns are read from files; at a row's first touch the kernel has to map a page. "
        f"Raw result: [`{path}`](../{path}).",
        "",
        "| columns | shuffle | rule | seek, s | memory, MiB | plan a step, ms | at first touch, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in result["measurements"]:
        plan, first = found["plan_ms"], found["plan_first_touch_ms"]
        lines.append(
            f"| {found['columns']} | {found['shuffle']} | {found['rule']} | {found['seek_s']:.3f} | "
            f"{found['seek_memory_mib']:.0f} | {plan['median']:.1f} ({plan['min']:.1f} to {plan['max']:.1f}) | "
            f"{first['median']:.1f} |"
        )
    return [*lines, ""]
