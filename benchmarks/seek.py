"""How long, and with how much memory, can any step of a run over a billion samples be reached and planned?

    python -m benchmarks.seek

Each measurement is a fresh process that opens a data set of a billion samples, builds the planner of a run of 90 epochs
and plans one step far inside the run: that is a seek, for the step is the loader's whole state. Then it plans random
steps of the same epoch, each twice: the first time touches rows of the data set for the first time. The data set's
columns (label, width, height) are either computed, which leaves the planning alone, or mapped files of 4 GB each, as an
index has them. These are sparse, so a page of them comes from no disk, but the kernel has to provide it when first
touched. What Python and its libraries take before the seek is not counted. Writes benchmarks/results/seek.json.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from engine.ranks.hardware import describe_hardware
from pipeline.config import DataConfig
from pipeline.plan.rows import steps_per_epoch
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.settings import Duration
from pipeline.shards.arrow_file import map_file

RESULT = Path("benchmarks/results/seek.json")
NUM_SAMPLES, NUM_SHARDS = 1_000_000_000, 100_000
GLOBAL_BATCH_SIZE, NUM_EPOCHS, SEED = 4096, 90, 0
COLUMNS, MODES, RULES = ("computed", "mapped"), ("global", "window"), ("contrast", "random")
VALUES = {"label": 0, "width": 500, "height": 375}
LIMITS = {"seek_s": 1.0, "seek_memory_mib": 200 * 1e6 / 2**20, "plan_ms_median": 10.0}
Shuffle = Literal["global", "window"]
Rule = Literal["contrast", "random"]


class MappedColumn:
    """A mapped int32 column of zeros that reads as ``constant``: every value asked for is read from the file."""

    def __init__(self, path: Path, constant: int) -> None:
        self._values = np.frombuffer(map_file(path), dtype=np.int32)
        self._constant = constant

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(self._values[ids]) + self._constant


@dataclass(frozen=True)
class SyntheticSamples:
    """A billion samples of 500 x 375 pixels in shards of ten thousand."""

    label: Any
    width: Any
    height: Any

    @classmethod
    def computed(cls) -> "SyntheticSamples":
        return cls(*(np.broadcast_to(np.int32(value), (NUM_SAMPLES,)) for value in VALUES.values()))

    @classmethod
    def mapped(cls, folder: Path) -> "SyntheticSamples":
        return cls(*(MappedColumn(folder / name, value) for name, value in VALUES.items()))

    @property
    def levels(self) -> tuple[()]:
        return ()

    @property
    def num_samples(self) -> int:
        return NUM_SAMPLES

    @property
    def shard_sizes(self) -> np.ndarray:
        return np.full(NUM_SHARDS, NUM_SAMPLES // NUM_SHARDS, dtype=np.int64)

    def sample_ids(self, positions: np.ndarray) -> np.ndarray:
        """Nothing is excluded: each sample has its own number's place."""
        return positions


def make_columns(folder: Path) -> None:
    """Sparse files of four bytes a sample."""
    for name in VALUES:
        with (folder / name).open("wb") as file:
            file.truncate(4 * NUM_SAMPLES)


def build_planner(folder: Path, columns: str, mode: Shuffle, rule: Rule) -> TrainPlanner:
    """The planner of the run, as the trainer builds it."""
    data = DataConfig(train=folder, val=folder, num_classes=1000, shuffle=mode)
    total_steps = Duration.parse(f"{NUM_EPOCHS}epochs").steps(
        per_epoch := steps_per_epoch(NUM_SAMPLES, GLOBAL_BATCH_SIZE), GLOBAL_BATCH_SIZE
    )
    schedule = PatchSchedule(
        ScheduleConfig(kind="cyclic", keep_rate=[0.2, 1.0]),
        data.num_patches,
        total_steps,
        per_epoch,
        GLOBAL_BATCH_SIZE,
        SEED,
    )
    samples = SyntheticSamples.mapped(folder) if columns == "mapped" else SyntheticSamples.computed()
    return TrainPlanner(samples, data, SelectionConfig(rule=rule), schedule, GLOBAL_BATCH_SIZE, SEED)


def memory_kib() -> dict[str, int]:
    """This process's memory: resident now, its peak, and the part that is no mapped file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM", "RssAnon")}


def spread(values: list[float]) -> dict[str, Any]:
    """Median, quartiles and extremes, and the values themselves."""
    return {
        "median": statistics.median(values),
        "quartiles": statistics.quantiles(values, n=4),
        "min": min(values),
        "max": max(values),
        "values": [round(value, 3) for value in values],
    }


def measure(folder: Path, columns: str, mode: Shuffle, rule: Rule, num_steps: int) -> dict[str, Any]:
    """One fresh process's measurements."""
    random = np.random.default_rng(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory_kib()
    start = time.perf_counter()
    planner = build_planner(folder, columns, mode, rule)
    total_steps = planner.schedule.total_steps
    target = int(random.integers(total_steps // 2, total_steps))
    plan = planner.plan(target)
    seek_s = time.perf_counter() - start
    after = memory_kib()
    assert plan.step == target
    first_step = target - target % planner.steps_per_epoch
    first_ms, again_ms, cpu_ms = [], [], []
    for step in first_step + random.integers(0, planner.steps_per_epoch, num_steps):
        start = time.perf_counter()
        planner.plan(int(step))
        first_ms.append(1e3 * (time.perf_counter() - start))
        start, start_cpu = time.perf_counter(), time.process_time()
        planner.plan(int(step))
        again_ms.append(1e3 * (time.perf_counter() - start))
        cpu_ms.append(1e3 * (time.process_time() - start_cpu))
    end = memory_kib()
    return {
        "columns": columns,
        "shuffle": mode,
        "rule": rule,
        "step": target,
        "total_steps": total_steps,
        "seek_s": seek_s,
        "seek_memory_mib": (after["VmHWM"] - before["VmRSS"]) / 1024,
        "seek_anonymous_memory_mib": (after["RssAnon"] - before["RssAnon"]) / 1024,
        "memory_after_all_mib": (end["VmHWM"] - before["VmRSS"]) / 1024,
        "plan_first_touch_ms": spread(first_ms),
        "plan_ms": spread(again_ms),
        "plan_cpu_ms": spread(cpu_ms),
        "plan_ms_median": statistics.median(again_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=50, help="random steps planned (default: %(default)s)")
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "COLUMNS", "SHUFFLE", "RULE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, columns, mode, rule = arguments.child
        measured = measure(Path(folder), columns, cast(Shuffle, mode), cast(Rule, rule), arguments.steps)
        print(json.dumps(measured))
        return
    measurements = []
    for columns, mode, rule in itertools.product(COLUMNS, MODES, RULES):
        with tempfile.TemporaryDirectory() as name:  # pages that an earlier process read would count as this one's
            make_columns(Path(name))
            command = [sys.executable, "-m", "benchmarks.seek", "--steps", str(arguments.steps)]
            command += ["--child", name, columns, mode, rule]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        found["over_limit"] = [key for key, limit in LIMITS.items() if found[key] >= limit]
        measurements.append(found)
        again, first = found["plan_ms"], found["plan_first_touch_ms"]
        print(
            f"{columns:8} {mode:6} {rule:8}  seek {found['seek_s']:.3f} s, {found['seek_memory_mib']:.0f} MiB; a step "
            f"{again['median']:.2f} ms ({again['min']:.2f} to {again['max']:.2f}), {first['median']:.2f} ms at first "
            f"touch; {'over: ' + ', '.join(found['over_limit']) if found['over_limit'] else 'within limits'}"
        )
    result = {
        "command": "python -m benchmarks.seek",
        "hardware": describe_hardware(),
        "num_samples": NUM_SAMPLES,
        "num_shards": NUM_SHARDS,
        "num_epochs": NUM_EPOCHS,
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "limits": LIMITS,
        "measurements": measurements,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
