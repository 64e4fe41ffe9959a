"""The files of a run folder, read for a report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig, load_config
from engine.metrics import read_metrics
from tools.sweep.labels import with_sizes


@dataclass(frozen=True)
class RunFiles:
    """A run folder as it was read.

    Attributes:
        train, evals: lines of the metrics; of ``train``, ``at_s`` is the training time up to the line's end.
        summary: None where the run is not done.
        sweep: lines of ``tools.sweep``; empty where there are none.
        profile: what ``tools.profile --json`` wrote, or None.
    """

    folder: Path
    config: RunConfig
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    summary: dict[str, Any] | None
    sweep: list[dict[str, Any]]
    profile: dict[str, Any] | None

    @property
    def measure(self) -> str:
        return "reconstruction loss" if self.config.task == "pretrain" else "top-1"

    def time_at(self, step: int) -> float:
        """Seconds of training before ``step`` steps were done, as far as lines tell."""
        return max((line["at_s"] for line in self.train if line["step"] < step), default=0.0)


def read_json(path: Path) -> Any:
    """Raises ValueError, naming the file, where it is no JSON; OSError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def read_sweep(folder: Path, sweep: Path | None) -> list[dict[str, Any]]:
    """The lines of ``sweep``, or of the sweep in the folder; none where there is none.

    Where it was made at several image or patch sizes, each counts as a rule of its own, which its name says.

    Raises:
        ValueError, OSError: there is no file ``sweep``, or it cannot be read.
    """
    if sweep is not None and not sweep.is_file():
        raise FileNotFoundError(f"--sweep: there is no file {sweep}; give the sweep.jsonl of tools.sweep")
    return with_sizes(read_metrics(sweep or folder / "sweep" / "sweep.jsonl"))


def read_run(folder: Path, sweep: Path | None = None, profile: Path | None = None) -> RunFiles:
    """Read a run folder.

    Args:
        sweep: results of ``tools.sweep`` (default: those in the run folder, if any).
        profile: result of ``tools.profile --json``.

    Raises:
        ValueError, OSError: no run folder, or a file in it or an argument that cannot be read.
    """
    config = load_config(folder / "config.yaml")
    lines = read_metrics(folder / "metrics.jsonl")
    train, at_s = [], 0.0
    for line in (line for line in lines if line["event"] == "train"):
        at_s += line["step_s"] * line["interval_steps"]
        train.append({**line, "at_s": at_s})
    summary = folder / "summary.json"
    return RunFiles(
        folder,
        config,
        train,
        [line for line in lines if line["event"] == "eval"],
        read_json(summary) if summary.is_file() else None,
        read_sweep(folder, sweep),
        None if profile is None else read_json(profile),
    )
