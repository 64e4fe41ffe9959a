"""Parts of the pages of faults: cases as a table, and what is told of addressable shards."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Messages of the program: long, full of paths, and said to be there by "ok".
_LONG = {"message", "error line", "error lines", "error lines that say so", "message at resuming", "tracebacks"}


def rows_of(cases: Iterable[dict[str, Any]]) -> list[str]:
    """Cases of a raw result as a table's lines."""
    lines = ["| fault | how | expected | observed | | s |", "|---|---|---|---|---|---|"]
    for case in cases:
        cells = [case["name"], case["injection"], case["expected"], _observed(case)]
        cells += ["ok" if case["ok"] else "**not**", f"{case['seconds']:.0f}"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines


def _observed(case: dict[str, Any]) -> str:
    """What was found, in one cell: what went wrong, or else codes, checkpoints and the like."""
    wrong = [check for check in case["checks"] if not check["ok"]]
    if wrong:
        return "; ".join(f"{check['what']}: {check['observed'][:80]}" for check in wrong)
    short = [check for check in case["checks"] if check["what"] not in _LONG and len(check["observed"]) <= 40]
    return "; ".join(f"{check['what']} {check['observed']}" for check in short)


# The group of the cases that only addressable shards have.
_OWN = "addressable shards"


def addressable_rows(faults: Path) -> list[str]:
    """The cases that only addressable shards have, as a section of the fault table."""
    if not faults.exists():
        return []
    own = [case for case in json.loads(faults.read_text())["cases"] if case["group"] == _OWN]
    return ["## Addressable shards", "", f"Raw result: [`{faults}`](../../{faults}).", "", *rows_of(own), ""]


def addressable_section(faults: Path, damaged: Path) -> list[str]:
    """What was found on addressable JPEGs: the fault table's cases, and thousands of damaged files."""
    lines = []
    if faults.exists():
        result = json.loads(faults.read_text())
        own = [case for case in result["cases"] if case["group"] == _OWN]
        groups = sorted({case["group"] for case in result["cases"]} - {_OWN})
        lines += [
            f"`{result['command']}`: the groups {' and '.join(f'*{group}*' for group in groups)} of the fault table "
            "again, with the same expectations, on shards of addressable JPEGs with their files of units, and "
            f"{len(own)} more cases. {result['num_ok']} of {result['num_cases']} went as expected. "
            f"Raw result: [`{faults}`](../{faults}).",
            "",
        ]
    if damaged.exists():
        result = json.loads(damaged.read_text())
        kinds = len(result["kinds"])
        lines += [
            f"`{result['command']}`: {result['images']:,} real photographs, addressable and damaged at random in "
            f"{kinds} ways (the data, the markers, the header, the file of units), became patches by the loader's own "
            "path. Each was held against the ordinary way, which reads and decodes the whole of the same file, and "
            f"against the sound file. {len(result['findings'])} had wrong pixels, a crash, or a fault that is not "
            f"named. By kind of damage: [`{damaged}`](../{damaged}).",
            "",
            "| what came of the row | images |",
            "|---|---|",
            *(f"| {outcome} | {count:,} |" for outcome, count in result["outcomes"].items()),
            "",
        ]
    return ["## Addressable shards", "", *lines] if lines else []
