"""Images per second of the loader at small image sizes, with the images at several sizes and with the full size alone.

    python -m benchmarks.real_photographs --out data/real-photographs --num 1200
    python -m benchmarks.levels
    python -m benchmarks.levels --table

Crop and flip. The photographs' tars are linked into a folder of their own, --work, in which the levels are made at
first use. Each image size is measured with levels and without, in turn and several times over; a ratio is within a
round. Beside the rates: at which size images were read, the bytes that were read of them, and how far the square images
are from those that the full size gives. Some ten minutes on two cores. Writes benchmarks/results/levels.json.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.levels.table import TABLE, WAYS, describe_table, measure_table
from benchmarks.loader import measure
from benchmarks.loader_ours import Ours, planned
from benchmarks.loader_peers import Setting
from benchmarks.measuring import RESULTS, keep_to_cores, spread, write_result
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.shards.index import build_index, index_path, open_index
from pipeline.shards.levels import level_folder
from pipeline.shards.links import link_tars
from pipeline.train_plans import TrainPlans
from tools.shards.levels.resize import resize_levels

PATCH_SIZE = 16
IMAGE_SIZES, KEEP_RATES, LEVELS = (96, 160, 192, 224), (1.0, 0.2), (256, 128)


def linked_with_levels(data: Path, work: Path, levels: Sequence[int], *, workers: int) -> dict[str, int]:
    """Link the training tars into a folder of their own, and make the levels there where they are missing.

    Returns:
        Bytes of the tars at full size and at each level.

    Raises:
        ValueError, OSError: no shards, or other ones where the levels would be.
    """
    tars = link_tars([data / shard.name for shard in open_index(data, "train").shards], work)
    if not index_path(work, "train").exists():
        build_index(work, "train", tars)
    resize_levels(work, levels, workers=workers)
    places = {"full size": work, **{f"level {pixels}": level_folder(work, pixels) for pixels in levels}}
    return {name: sum(tar.stat().st_size for tar in place.glob("*.tar")) for name, place in places.items()}


def contender(levels: Sequence[int]) -> Ours:
    return Ours({"rule": "random"}, {"levels": list(levels)})


def rates(setting: Setting, levels: Sequence[int], keep_rate: float, seconds: float, repeats: int) -> dict[str, Any]:
    """Images per second and processor time of both ways, taking turns.

    ratio, cpu_ratio: in each round, how many times as fast levels are, by elapsed and by processor time.
    """
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, has_levels in WAYS.items():
            ours = contender(levels if has_levels else ())
            found[way].append(measure(lambda one, ours=ours: ours.open(one, keep_rate), setting, seconds))  # type: ignore[misc]
    per_s = {way: [one["images_per_s"] for one in several] for way, several in found.items()}
    cpu_ms = {way: [one["cpu_ms_per_image"] for one in several] for way, several in found.items()}
    return {
        "ways": [
            {
                "way": way,
                "images_per_s": spread(per_s[way]),
                "cpu_ms_per_image": spread(cpu_ms[way]),
            }
            for way in WAYS
        ],
        "ratio": spread([a / b for a, b in zip(*per_s.values(), strict=True)]),
        "cpu_ratio": spread([b / a for a, b in zip(*cpu_ms.values(), strict=True)]),
    }


def distances(setting: Setting, levels: Sequence[int], num_batches: int) -> dict[str, Any]:
    """What levels change of the same plans: pixels, in grey levels of 255, and bytes; and how many take which level."""
    planners = {way: planned(contender(levels if has else ()), setting, 1.0)[1] for way, has in WAYS.items()}
    found = {way: _patches(planner, setting, num_batches) for way, planner in planners.items()}
    (pixels, taken, num_bytes), (full, _, full_bytes) = found["levels"], found["full size"]
    apart = np.abs(pixels.astype(np.int16) - full).mean(axis=1)
    at_level = apart[taken > 0]
    return {
        "num_images": len(apart),
        "share_at": {
            name: float(np.mean(taken == number))
            for number, name in enumerate(("full size", *(f"level {one}" for one in levels)))
        },
        "mean_distance": float(apart.mean()),
        "distance_of_images_at_a_level": None
        if not len(at_level)
        else {"mean": float(at_level.mean()), "p95": float(np.quantile(at_level, 0.95)), "max": float(at_level.max())},
        "bytes_read_per_image": num_bytes,
        "bytes_read_per_image_full_size": full_bytes,
    }


def _patches(planner: TrainPlanner, setting: Setting, num_batches: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Pixels uint8 [images, values], the level of each int64 [images], and the mean bytes read of one."""
    plans = TrainPlans(planner, first_step=0, stop_step=num_batches, micro_batch_size=setting.batch_size)
    with PatchLoader(planner, plans, batch_size=setting.batch_size, num_threads=setting.workers) as loader:
        batches = list(loader)
    taken = [np.zeros(one.num_images, np.int64) if one.plan.levels is None else one.plan.levels for one in batches]
    num_images = sum(batch.num_images for batch in batches)
    return (
        np.concatenate([batch.patches.numpy().reshape(batch.num_images, -1) for batch in batches]),
        np.concatenate(taken),
        sum(batch.bytes_read for batch in batches) / num_images,
    )


def describe(lines: list[dict[str, Any]]) -> str:
    """A line for each image size and keep rate."""
    return "\n".join(
        f"{line['image_size']} pixels, keep {line['keep_rate']:g}: "
        + ", ".join(f"{way['way']} {way['images_per_s']['median']:,.0f} images/s" for way in line["ways"])
        + f", ratio {line['ratio']['median']:.2f} ({line['ratio']['min']:.2f} to {line['ratio']['max']:.2f})"
        for line in lines
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="benchmarks.levels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/real-photographs"), help="(default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("data/real-photographs-levels"), help="(default: %(default)s)"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="(default: %(default)s)")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=IMAGE_SIZES, help="(default: %(default)s)")
    parser.add_argument("--keep-rates", type=float, nargs="+", default=KEEP_RATES, help="(default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="cores, and threads of the loader (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed in each repeat (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, default=16, help="whose pixels are compared (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="a run through the sizes of a table, not each size alone")
    parser.add_argument("--images", type=int, default=48_000, help="of the table's run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=f"(default: levels.json or levels_table.json in {RESULTS})")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    torch.set_num_threads(1)
    tar_bytes = linked_with_levels(options.data, options.work, options.levels, workers=options.cores)
    measured = (
        ("cores", "batch_size", "repeats", "images") if options.table else ("cores", "batch_size", "seconds", "repeats")
    )
    facts: dict[str, Any] = {name: getattr(options, name) for name in ("levels", *measured)}
    facts |= {"num_images": open_index(options.work, "train").num_samples, "tar_bytes": tar_bytes}
    found = {"table": _table(options)} if options.table else _sizes(options)
    out = options.out or RESULTS / ("levels_table.json" if options.table else "levels.json")
    write_result(out, "benchmarks.levels", argv, facts | found, load_before)


def _setting(options: argparse.Namespace, image_size: int) -> Setting:
    classes = max(2, open_index(options.work, "train").max_label + 1)
    return Setting(options.work, image_size, PATCH_SIZE, classes, options.batch_size, options.cores)


def _table(options: argparse.Namespace) -> dict[str, Any]:
    full_size = max(size for size, _ in TABLE)
    found = measure_table(_setting(options, full_size), options.levels, options.images, options.repeats)
    print(describe_table(found), flush=True)
    return found


def _sizes(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"rates": [], "pixels": []}
    for image_size in options.image_sizes:
        setting, which = _setting(options, image_size), {"image_size": image_size}
        found["pixels"].append(which | distances(setting, options.levels, options.batches))
        for keep_rate in options.keep_rates:
            line = rates(setting, options.levels, keep_rate, options.seconds, options.repeats)
            found["rates"].append(which | {"keep_rate": keep_rate} | line)
            print(describe(found["rates"][-1:]), flush=True)
    return found


if __name__ == "__main__":
    main()
