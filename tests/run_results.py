"""What a run left in its folder."""

import json
from pathlib import Path
from typing import Any


def lines(toy: Path, out: str, event: str) -> list[dict[str, Any]]:
    """The run's metrics of one kind, in order."""
    text = (toy / out / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if line["event"] == event]


def summary(toy: Path, out: str) -> dict[str, Any]:
    return json.loads((toy / out / "summary.json").read_text())
