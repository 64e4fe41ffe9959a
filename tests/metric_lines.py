"""Lines of metrics for tests that look at some of their fields."""

from typing import Any

from engine.metrics_table import METRICS


def metrics_line(event: str, step: int, **values: Any) -> dict[str, Any]:
    """A whole line, as a run would write it; the fields that are not given are null."""
    always = {metric.name: None for metric in METRICS if metric.event == event and not metric.only}
    return {**always, "event": event, "step": step, **values}
