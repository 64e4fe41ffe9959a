"""A whole run's worth of images at the sizes of EfficientTrain++'s table, with levels and with the full size alone."""

import time
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

from benchmarks.loader_ours import data_config
from benchmarks.loader_peers import Setting
from benchmarks.measuring import spread, tree_cpu_s
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.levels import open_with_levels
from pipeline.train_plans import TrainPlans

# Sides of images and tenths of the training's computation, for DeiT-S: arXiv 2405.08768 as its authors run it
# (_ET_pp_main_deitS.py in LeapLabTHU/EfficientTrain). A tenth holds as many images as it can compute: by the inverse of
# an image's area.
TABLE = ((96, 2), (160, 4), (192, 2), (224, 2))
WAYS = {"levels": True, "full size": False}


def starts() -> list[tuple[float, int]]:
    """When each size begins, as a share of the run's images, and its pixels: ``schedule.image_size.values``."""
    images = [tenths / size**2 for size, tenths in TABLE]
    return [(sum(images[:number]) / sum(images), size) for number, (size, _) in enumerate(TABLE)]


def planner(setting: Setting, levels: Sequence[int], num_images: int) -> TrainPlanner:
    """Of a run of about so many images, whole batches, all patches kept."""
    data = data_config(setting.shards, setting, {"levels": list(levels)})
    index, size = open_with_levels(setting.shards, "train", data.levels), setting.batch_size
    values = {"kind": "constant", "keep_rate": 1.0, "image_size": {"kind": "steps", "values": starts()}}
    schedule = PatchSchedule(
        ScheduleConfig.model_validate(values),
        data.num_patches,
        max(1, round(num_images / size)),
        index.num_samples // size,
        size,
        image_size=data.image_size,
        patch_size=data.patch_size,
    )
    return TrainPlanner(index, data, SelectionConfig(rule="random"), schedule, size, 0)


def run(setting: Setting, levels: Sequence[int], num_images: int) -> dict[str, Any]:
    """Load it from the first image to the last.

    Returns:
        seconds: from opening the loader to its last batch. cpu_s: of all processes until then. images_per_s.
        by_size: of each image size images_per_s, between its first batch and the next one's; what lies ready in the
        loader's queue at a change is the earlier size's time.
    """
    plan, size = planner(setting, levels, num_images), setting.batch_size
    plans = TrainPlans(plan, first_step=0, stop_step=plan.schedule.total_steps, micro_batch_size=size)
    cpu_s, start = tree_cpu_s(), time.perf_counter()
    begun: dict[int, tuple[float, int]] = {}
    loaded = 0
    with closing(PatchLoader(plan, plans, batch_size=size, num_threads=setting.workers)) as loader:
        for batch in loader:
            image_size = batch.plan.stage.image_size
            assert image_size is not None
            begun.setdefault(image_size, (time.perf_counter(), loaded))
            loaded += batch.num_images
        end = time.perf_counter()
        cpu_s = tree_cpu_s() - cpu_s
    marks = [*begun.values(), (end, loaded)]
    rates = [(after - before) / (stop - begin) for (begin, before), (stop, after) in pairwise(marks)]
    return {
        "seconds": end - start,
        "cpu_s": cpu_s,
        "num_images": loaded,
        "images_per_s": loaded / (end - start),
        "by_size": dict(zip(begun, rates, strict=True)),
    }


def measure_table(setting: Setting, levels: Sequence[int], num_images: int, repeats: int) -> dict[str, Any]:
    """Both ways in turn, ``repeats`` times, after a short run of each; ratios are within a round."""
    chosen = {way: levels if has_levels else () for way, has_levels in WAYS.items()}
    for some in chosen.values():  # kernels compile, files come into memory
        run(setting, some, min(num_images, 20 * setting.batch_size))
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, some in chosen.items():
            found[way].append(run(setting, some, num_images))
    names = ("seconds", "cpu_s", "images_per_s")
    return {
        "image_size_values": starts(),
        "num_images": found["levels"][0]["num_images"],
        "ways": [
            {"way": way}
            | {name: spread([one[name] for one in several]) for name in names}
            | {"by_size": [{"image_size": size} | _rates(several, size) for size in several[0]["by_size"]]}
            for way, several in found.items()
        ],
        **{
            name: spread([b[of] / a[of] for a, b in zip(*found.values(), strict=True)])
            for name, of in (("ratio", "seconds"), ("cpu_ratio", "cpu_s"))
        },
    }


def _rates(several: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
    return {"images_per_s": spread([one["by_size"][size] for one in several])}


def describe_table(table: dict[str, Any]) -> str:
    """A line for each way, and how many times as fast levels are."""
    lines = [
        f"{way['way']}: {table['num_images']:,} images in {way['seconds']['median']:.1f} s, "
        f"{way['images_per_s']['median']:,.0f} images/s ("
        + ", ".join(f"{one['image_size']}: {one['images_per_s']['median']:,.0f}" for one in way["by_size"])
        + ")"
        for way in table["ways"]
    ]
    ratio = table["ratio"]
    return "\n".join([*lines, f"ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"])
