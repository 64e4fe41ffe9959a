"""How the input side's costs grow with the data set, the number of ranks, the threads and the batch.

    make data && python -m benchmarks.scale

Four parts. *Plans*: the time to plan a step of 1,024 samples, over data sets of 10^4 to 10^9 samples (their columns are
computed, not stored), 1 to 4,096 ranks, all rules and all settings of augmentation. *Indexes*: the time to open an
index of 10^4 to 10^7 samples that is as large as a real one, over shards that are links to one small tar. *Start-up*:
fresh processes that open such a data set and take the first batch from the loader, imports not counted. *Loader*:
images per second over threads and batch sizes. About four minutes on two cores. Writes benchmarks/results/scale.json.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader import measure, settings
from benchmarks.loader_ours import Ours
from benchmarks.loader_peers import Setting
from benchmarks.measuring import benchmark_parser, spread, write_result
from benchmarks.synthetic import SyntheticSamples, write_large_data_set
from pipeline.config import DataConfig
from pipeline.plan.rows import steps_per_epoch
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import open_index

STEP_SAMPLES = 1024
PLANNED_SIZES = tuple(10**power for power in range(4, 10))
WORLD_SIZES = (1, 8, 64, 512, 4096)
RANK_BATCH_SIZE = 256
EVERYTHING = {
    "auto": {"kind": "randaugment"},
    "mixup": 0.8,
    "cutmix": 1.0,
    "erase_probability": 0.25,
}
AUGMENTS: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "pad crop": {"crop": "pad"},
    "randaugment": {"auto": {"kind": "randaugment"}},
    "trivialaugment": {"auto": {"kind": "trivialaugment"}},
    "color jitter": {"color_jitter": 0.4},
    "mixup and cutmix": {"mixup": 0.8, "cutmix": 1.0},
    "erasing": {"erase_probability": 0.25},
    "repeats": {"repeats": 3},
    "randaugment, mixup and cutmix, erasing": EVERYTHING,
}
RULES = ("random", "grid", "contrast", "magnitude")
INDEXED = {10**4: 10, 10**5: 100, 10**6: 1000, 10**7: 10_000}  # samples: shards
STARTED = {10**4: 10, 10**6: 1000}
THREADS, BATCH_SIZES = (1, 2), (16, 64, 256)
TARGETS = {"plan_ms": 2.0, "startup_s": 2.0}


def build_planner(
    num_samples: int, rule: str, augment: dict[str, Any], batch_size: int, shuffle: str = "global"
) -> TrainPlanner:
    """A run of 90 epochs over computed samples of 500 x 375 pixels."""
    data = DataConfig.model_validate(
        {"train": ".", "val": ".", "num_classes": 1000, "shuffle": shuffle, "augment": augment}
    )
    per_epoch = steps_per_epoch(num_samples, batch_size)
    schedule = PatchSchedule(
        ScheduleConfig(kind="cyclic", keep_rate=[0.2, 1.0]), data.num_patches, 90 * per_epoch, per_epoch, batch_size, 0
    )
    samples = SyntheticSamples.of(num_samples)
    return TrainPlanner(samples, data, SelectionConfig.model_validate({"rule": rule}), schedule, batch_size, 0)


def time_plans(planners: list[TrainPlanner], repeats: int, rank: int = 0, world_size: int = 1) -> list[dict[str, Any]]:
    """Milliseconds to plan a random step of one epoch, planners in turn: wall time, and the thread's on a processor."""
    random = np.random.default_rng(0)
    wall: list[list[float]] = [[] for _ in planners]
    cpu: list[list[float]] = [[] for _ in planners]
    for repeat in range(repeats + 1):  # the first warms up
        for number, planner in enumerate(planners):
            step = 45 * planner.steps_per_epoch + int(random.integers(planner.steps_per_epoch))
            start, start_cpu = time.perf_counter(), time.thread_time()
            planner.plan(step, rank, world_size)
            if repeat:
                wall[number].append(1000 * (time.perf_counter() - start))
                cpu[number].append(1000 * (time.thread_time() - start_cpu))
    return [
        {"plan_ms": rounded(spread(one)), "plan_cpu_ms": rounded(spread(other))}
        for one, other in zip(wall, cpu, strict=True)
    ]


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """A spread without its many values' last digits."""
    return {**found, "values": [round(value, 4) for value in found["values"]]}


def plans_over_sizes(repeats: int) -> list[dict[str, Any]]:
    cases = [(size, rule, shuffle) for size in PLANNED_SIZES for rule in RULES for shuffle in ("global", "window")]
    planners = [build_planner(size, rule, {}, STEP_SAMPLES, shuffle) for size, rule, shuffle in cases]
    return [
        {"num_samples": size, "rule": rule, "shuffle": shuffle, **timed}
        for (size, rule, shuffle), timed in zip(cases, time_plans(planners, repeats), strict=True)
    ]


def plans_over_settings(repeats: int) -> list[dict[str, Any]]:
    cases = [(name, rule) for name in AUGMENTS for rule in ("contrast", "random")]
    planners = [build_planner(PLANNED_SIZES[-1], rule, AUGMENTS[name], STEP_SAMPLES) for name, rule in cases]
    return [
        {"num_samples": PLANNED_SIZES[-1], "augment": name, "rule": rule, **timed}
        for (name, rule), timed in zip(cases, time_plans(planners, repeats), strict=True)
    ]


def plans_over_ranks(repeats: int) -> list[dict[str, Any]]:
    """A rank's part of ever larger global batches: what the last rank pays, which stands farthest in."""
    found = []
    for world_size in WORLD_SIZES:
        planner = build_planner(PLANNED_SIZES[-1], "random", EVERYTHING, RANK_BATCH_SIZE * world_size)
        [timed] = time_plans([planner], repeats, world_size - 1, world_size)
        found.append({"world_size": world_size, "rank_batch_size": RANK_BATCH_SIZE, **timed})
    return found


def plan_profile(repeats: int, num_functions: int = 10) -> list[dict[str, Any]]:
    """Where the time of the dearest plan goes: milliseconds a plan in each function itself, under Python's profiler."""
    planner = build_planner(PLANNED_SIZES[-1], "random", EVERYTHING, STEP_SAMPLES)
    planner.plan(0)
    profiler = cProfile.Profile()
    for step in range(1, repeats + 1):
        profiler.runcall(planner.plan, step)
    stats = pstats.Stats(profiler).get_stats_profile().func_profiles
    dearest = sorted(stats.items(), key=lambda item: item[1].tottime, reverse=True)[:num_functions]
    return [
        {"function": f"{Path(one.file_name).name}:{name}", "ms_a_plan": round(1000 * one.tottime / repeats, 3)}
        for name, one in dearest
    ]


def timed_s(work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    values = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        values.append(time.perf_counter() - start)
    return spread(values)


def indexes(folder: Path, repeats: int, sizes: dict[int, int]) -> list[dict[str, Any]]:
    found = []
    for num_samples, num_shards in sizes.items():
        data_set = folder / f"{num_samples}"
        write_large_data_set(data_set, num_samples, num_shards)
        size_mib = (data_set / "train.index").stat().st_size / 2**20
        open_s = timed_s(lambda data_set=data_set: open_index(data_set, "train"), repeats)  # type: ignore[misc]
        found.append(
            {"num_samples": num_samples, "num_shards": num_shards, "index_mib": round(size_mib, 1), "open_s": open_s}
        )
    return found


def start_up(folder: Path) -> dict[str, float]:
    """Seconds from nothing but imports to the first batch, by part, in this process."""
    setting = Setting(folder, 224, 16, 10, 32, 2)
    start = time.perf_counter()
    open_index(folder, "val")
    val_opened = time.perf_counter()
    with Ours({"rule": "contrast"}).open(setting, 0.6) as batches:  # opens the training index and plans
        opened = time.perf_counter()
        next(batches)
        first = time.perf_counter()
    parts = {"open_val_s": val_opened - start, "open_train_and_loader_s": opened - val_opened}
    return {**parts, "first_batch_s": first - opened, "startup_s": first - start}


def start_ups(folder: Path, repeats: int, sizes: dict[int, int]) -> list[dict[str, Any]]:
    found = []
    for num_samples, num_shards in sizes.items():
        data_set = folder / f"{num_samples}"
        if not data_set.exists():
            write_large_data_set(data_set, num_samples, num_shards)
        command = [sys.executable, "-m", "benchmarks.scale", "--start-up", str(data_set)]
        done = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeats)]
        starts = [json.loads(text.splitlines()[-1]) for text in done]
        parts = {part: spread([one[part] for one in starts]) for part in starts[0]}
        found.append({"num_samples": num_samples, "num_shards": num_shards, **parts})
    return found


def loader_rates(data: Path, num_photographs: int, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Our loader under ``contrast`` at keep rate 0.6, in turn over threads and batch sizes."""
    ours = Ours({"rule": "contrast"})
    cases = [
        (name, threads, batch_size)
        for name in ("photographs", "fashion_mnist")
        for threads in THREADS
        for batch_size in BATCH_SIZES
    ]
    measured: list[list[dict[str, float]]] = [[] for _ in cases]
    for _ in range(repeats):
        for found, (name, threads, batch_size) in zip(measured, cases, strict=True):
            setting = settings(batch_size, threads, data, num_photographs)[name]
            found.append(measure(lambda setting: ours.open(setting, 0.6), setting, seconds))
    return [
        {
            "data_set": name,
            "threads": threads,
            "batch_size": batch_size,
            "images_per_s": spread([one["images_per_s"] for one in found]),
            "cpu_ms_per_image": spread([one["cpu_ms_per_image"] for one in found]),
        }
        for found, (name, threads, batch_size) in zip(measured, cases, strict=True)
    ]


def describe(found: dict[str, list[dict[str, Any]]]) -> str:
    """One line for each measurement: what was varied, then medians and extremes."""
    rows = []
    for part, lines in found.items():
        rows.append(f"{part.replace('_', ' ')}:")
        for line in lines:
            varied = ", ".join(f"{key} {value}" for key, value in line.items() if not isinstance(value, dict))
            results = ", ".join(
                f"{key} {value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})"
                for key, value in line.items()
                if isinstance(value, dict)
            )
            rows.append(f"    {varied}" + (f": {results}" if results else ""))
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("scale", __doc__)
    parser.add_argument("--plans", type=int, default=40, help="steps planned in each case (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of loading, timed (default: %(default)s)")
    parser.add_argument("--max-samples", type=int, default=max(INDEXED), help="of a written index (default: all)")
    parser.add_argument("--folder", type=Path, help="where large indexes are written; default: a temporary one")
    parser.add_argument("--start-up", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.start_up is not None:
        print(json.dumps(start_up(options.start_up)))
        return
    load_before = os.getloadavg()[0]
    found = {
        "plans_over_sizes": plans_over_sizes(options.plans),
        "plans_over_settings": plans_over_settings(options.plans),
        "plans_over_ranks": plans_over_ranks(options.plans),
        "plan_profile": plan_profile(options.plans),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        indexed, started = (
            {size: shards for size, shards in sizes.items() if size <= options.max_samples}
            for sizes in (INDEXED, STARTED)
        )
        found["indexes"] = indexes(Path(name), options.repeats, indexed)
        found["start_ups"] = start_ups(Path(name), options.repeats, started)
    found["loader"] = loader_rates(options.data, options.photographs, options.seconds, options.repeats)
    print(describe(found))
    facts = {"step_samples": STEP_SAMPLES, "targets": TARGETS, "repeats": options.repeats, "plans": options.plans}
    write_result(options.out, "benchmarks.scale", argv, {**facts, **found}, load_before)


if __name__ == "__main__":
    main()
