"""The run's record: one JSON object a line, and what is counted between two lines."""

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from engine.metrics_table import BEFORE_A_STEP, Interval, check_line
from pipeline.files import write_atomically

if TYPE_CHECKING:  # whoever only reads metrics needs no torch
    from engine.ranks.world import World
    from engine.timing.laps import Laps
    from pipeline.loader import Read


class Monitor(Protocol):
    """Somewhere that lines of the metrics go to."""

    def write(self, line: dict[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """``metrics.jsonl``. Every rank has one; that of the first rank writes, the others' are silent.

    A resumed run goes on from its checkpoint; lines of steps that will be trained again are dropped, so that the file
    holds each step once.

    Args:
        first_step: the step the run starts or goes on with.
        monitors: get every line as well, and are closed with the file; none on other ranks than the first.
    """

    def __init__(self, path: Path, first_step: int, world: "World", monitors: Sequence[Monitor] = ()) -> None:
        self._path, self._monitors = path, monitors
        self._file: TextIO | None = None
        if world.is_first:
            kept = [line for line in read_metrics(path) if done_before(line, first_step)]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept), sync=True)
            self._file = path.open("a", buffering=1)

    def read(self) -> list[dict[str, Any]]:
        """The lines so far; none on other ranks than the first."""
        return [] if self._file is None else read_metrics(self._path)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; its fields are those of ``engine.metrics_table``."""
        check_line(line)
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
        for monitor in self._monitors:
            monitor.write(line)

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        for monitor in self._monitors:
            monitor.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for monitor in self._monitors:
            monitor.close()


def done_before(line: dict[str, Any], first_step: int) -> bool:
    """Whether a line speaks of what a run that starts at ``first_step`` has behind it."""
    # A train line is about step `step`; eval and checkpoint lines are about the weights after `step` steps.
    return line["step"] < first_step if line["event"] in BEFORE_A_STEP else line["step"] <= first_step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, none if there is no file. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class IntervalClock:
    """What passes between two lines of metrics, since the last ``reset``: times, the loader's wait, and reading.

    Args:
        laps: the training device's clock.
    """

    def __init__(self, laps: "Laps") -> None:
        self._laps = laps
        self.reset(0.0, None)

    def reset(self, loader_wait_s: float, read: "Read | None") -> None:
        self._laps.start()
        self._start = time.perf_counter()
        self._cpu_at_start = time.process_time()
        self._wait_at_start, self._read_at_start = loader_wait_s, read
        self.num_steps = 0

    def work_begins(self) -> None:
        """A batch is on the device: until here it was idle, from here on it is busy. Waits for nothing."""
        self._laps.end("idle")

    def work_ends(self) -> None:
        """All work on the batch has been given to the device. Waits for nothing."""
        self._laps.end("busy")

    def per_step(self, loader_wait_s: float, read: "Read") -> Interval:
        """What a step has taken, and what was read for an image, since the last ``reset``. Waits for the device."""
        on_device_s = self._laps.seconds()
        elapsed_s = time.perf_counter() - self._start
        cpu_s = time.process_time() - self._cpu_at_start
        waited_s = loader_wait_s - self._wait_at_start
        steps, (num_bytes, num_pages) = self.num_steps, read.per_image(since=self._read_at_start)
        return Interval(
            steps,
            step_s=elapsed_s / steps,
            loader_wait_s=waited_s / steps,
            cpu_s=cpu_s / steps,
            device_busy_s=on_device_s.get("busy", 0.0) / steps,
            device_idle_s=on_device_s.get("idle", 0.0) / steps,
            bytes_read_per_image=num_bytes,
            pages_read_per_image=num_pages,
        )


def stage_table(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed per schedule stage from a run's metrics, ascending by keep rate and sizes.

    Sizes are null where a run of an earlier version tells none. Medians over the logged intervals, so that the first
    steps at a new shape do not count more than others.
    """
    train = [line for line in lines if line["event"] == "train"]
    # A run that an earlier version began, which told no sizes, has one of each.
    told = next(((line["image_size"], line["patch_size"]) for line in train if line.get("image_size")), (0, 0))
    by_stage: dict[tuple[float, int, int], list[dict[str, Any]]] = defaultdict(list)
    for line in train:
        sizes = (line["image_size"], line["patch_size"]) if line.get("image_size") else told
        by_stage[line["keep_rate"], *sizes].append(line)
    return [
        {
            "keep_rate": rate,
            "num_kept": group[0]["num_kept"],
            "image_size": image_size or None,
            "patch_size": patch_size or None,
            "num_steps": sum(line["interval_steps"] for line in group),
            "step_s": statistics.median(line["step_s"] for line in group),
            "images_per_s": statistics.median(line["images_per_s"] for line in group),
            "loader_wait_share": statistics.median(line["loader_wait_s"] / line["step_s"] for line in group),
            "device_busy_s": _median(group, "device_busy_s"),
            "device_idle_s": _median(group, "device_idle_s"),
            "bytes_per_image": statistics.median(line["bytes_per_image"] for line in group),
            "bytes_read_per_image": _median(group, "bytes_read_per_image"),
            "pages_read_per_image": _median(group, "pages_read_per_image"),
        }
        for (rate, image_size, patch_size), group in sorted(by_stage.items())
    ]


def sizes_of(stage: dict[str, Any]) -> tuple[int | None, int | None]:
    """Of image and patch; None where an earlier version told none."""
    return stage.get("image_size"), stage.get("patch_size")


def rows_by_keep_rate(
    stages: list[dict[str, Any]], measured: dict[str, float]
) -> list[tuple[float, dict[str, Any] | None]]:
    """A keep rate and a stage that was trained at it, the largest first; None where there is none."""
    untrained = {float(rate) for rate in measured} - {stage["keep_rate"] for stage in stages}
    rows = [(stage["keep_rate"], stage) for stage in reversed(stages)] + [(rate, None) for rate in untrained]
    return sorted(rows, key=lambda row: -row[0])


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    """None where a start of an earlier version, which did not count it, has a part in the run."""
    values = [line[name] for line in lines if line.get(name) is not None]
    return statistics.median(values) if len(values) == len(lines) else None


def train_wall_s(lines: list[dict[str, Any]]) -> float:
    """Time spent in training steps, over all of a run's starts; evaluation and checkpoints are not in it."""
    return sum(line["step_s"] * line["interval_steps"] for line in lines if line["event"] == "train")


def train_cpu_s(lines: list[dict[str, Any]]) -> float | None:
    """Processor time of the first rank in training steps, over all of a run's starts: other work does not lengthen it.

    None where a start of an earlier version, which did not measure it, has a part in the run.
    """
    steps = [line for line in lines if line["event"] == "train"]
    if any("cpu_s" not in line for line in steps):
        return None
    return sum(line["cpu_s"] * line["interval_steps"] for line in steps)
