"""The table's raw result, and the page that is written from it."""

import json
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Outcome
from benchmarks.hardware import describe_hardware

RESULT = Path("benchmarks/results/faults.json")
DOCS = Path("docs/reliability.md")


def write_result(outcomes: list[Outcome], minutes: float) -> dict[str, Any]:
    """Write the raw result; returns it."""
    result = {
        "command": "python -m benchmarks.faults",
        "hardware": describe_hardware(),
        "minutes": round(minutes, 1),
        "num_cases": len(outcomes),
        "num_ok": sum(outcome.checks.ok for outcome in outcomes),
        "cases": [outcome.as_json() for outcome in outcomes],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return result


def write_docs(result: dict[str, Any]) -> None:
    pass
