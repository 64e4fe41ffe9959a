"""Images per second of the loader beside its peers.

    make data && python -m benchmarks.loader

On photographs of about 500 x 375 pixels (made at first use) and on Fashion-MNIST. Every contender reads the same
shards, with as many worker threads or processes as cores, crops and mirrors at random and resizes with antialiasing; it
is opened, warmed up, and then timed for some seconds, all in turn and several times over. Recorded: images per second,
CPU seconds of all processes per image, and bytes per image that are handed to the trainer. About twenty minutes on two
cores. Writes benchmarks/results/loader.json.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.loader_ours import Ours, Part, fast_idct_levels
from benchmarks.loader_peers import (
    Batches,
    Setting,
    dali_reader,
    timm_naflex,
    timm_webdataset,
    webdataset_torchvision,
)
from benchmarks.measuring import benchmark_parser, fork_workers_safely, keep_to_cores, spread, tree_cpu_s, write_result
from benchmarks.photographs import write_photographs
from tools.shards.images import Encoding

Open = Callable[[Setting], AbstractContextManager[Batches]]

KEEP_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
RESIZED_PIXELS = 256  # of the shorter side, in shards made so
RESAMPLE_FIRST, ECHO = {"route": "resample_first"}, {"echo": 2}
MIXING = {"mixup": 0.8, "cutmix": 1.0}
# Each of these is measured at every keep rate. One line for each further configuration of the loader.
OURS = {
    "random": Ours({"rule": "random"}),
    "contrast": Ours({"rule": "contrast"}),
}
if torch.cuda.is_available():
    OURS["contrast, decoded on the GPU"] = Ours({"rule": "contrast"}, data={"device": "gpu"})
# Each of these at the lowest one.
OURS_AT_LOWEST = {
    "grid": Ours({"rule": "grid"}),
    "random, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST),
    "grid, resample first": Ours({"rule": "grid"}, RESAMPLE_FIRST),
    "contrast, resample first": Ours({"rule": "contrast"}, RESAMPLE_FIRST),
    "random, mixup and cutmix": Ours({"rule": "random"}, augment=MIXING),
    "random, mixup and cutmix, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST, MIXING),
    "random, echo 2": Ours({"rule": "random"}, ECHO),
    "random, echo 4": Ours({"rule": "random"}, {"echo": 4}),
    "random, echo 2, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST | ECHO),
    "random, shards of 256 pixels": Ours({"rule": "random"}, resized=True),
    "random, shards of 256 pixels, echo 2": Ours({"rule": "random"}, ECHO, resized=True),
}
# Whole images, whatever a model drops later.
WHOLE: dict[str, Open] = {
    "ours, without selection": Part("flip").open,
    "ours, decoding alone": Part("decode").open,
    "ours, decoding alone, fast IDCT": Part("decode", fast_idct=True).open,
    "ours, decoding whole images alone": Part("decode", window=False).open,
    "timm, WebDataset": timm_webdataset,
    "timm, NaFlex": timm_naflex,
    "webdataset and torchvision v2": webdataset_torchvision,
    "DALI's own reader": dali_reader,
}
# What is hoped for on photographs: one contender's images per second over another's.
TARGETS = {
    ("ours, random, keep 0.2", "timm, WebDataset"): 2.5,
    ("ours, contrast, keep 0.2", "timm, WebDataset"): 2.5,
    ("ours, random, keep 0.2", "webdataset and torchvision v2"): 1.5,
    ("ours, contrast, keep 0.2", "webdataset and torchvision v2"): 1.5,
    ("ours, random, echo 2, keep 0.2", "ours, random, keep 0.2"): 1.6,
    ("ours, random, shards of 256 pixels, keep 0.2", "ours, random, keep 0.2"): 2.0,
    ("ours, random, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, grid, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, contrast, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, random, keep 0.2", "ours, decoding alone"): 0.8,
    ("ours, contrast, keep 0.2", "ours, decoding alone"): 0.8,
}
DECODING_RESIZED = "ours, decoding alone, shards of 256 pixels"
FASHION_MNIST = Path("data/fashion-mnist")
# Batches that a contender may hold ready: four of PyTorch's workers, or the loader's queue and what DALI holds.
WARMUP_BATCHES = 8


def contenders(setting: Setting) -> dict[str, tuple[float | None, Open]]:
    """By name: the keep rate, None where whole images come out, and what opens it."""
    cases = [(name, ours, keep_rate) for name, ours in OURS.items() for keep_rate in KEEP_RATES]
    cases += [
        (name, ours, min(KEEP_RATES))
        for name, ours in OURS_AT_LOWEST.items()
        if setting.resized_shards is not None or not ours.resized
    ]
    found: dict[str, tuple[float | None, Open]] = {
        f"ours, {name}, keep {keep_rate:g}": (keep_rate, partial(ours.open, keep_rate=keep_rate))
        for name, ours, keep_rate in cases
    }
    found |= {name: (None, opener) for name, opener in WHOLE.items()}
    if setting.resized_shards is not None:
        found[DECODING_RESIZED] = None, Part("decode", resized=True).open
    return found


def measure(opener: Open, setting: Setting, seconds: float) -> dict[str, float]:
    """One repeat of one contender, timed once it has used up what it had ready at the start."""
    with opener(setting) as batches:
        for _ in range(WARMUP_BATCHES):
            next(batches)
        num_images = num_bytes = 0
        cpu_s, start = tree_cpu_s(), time.perf_counter()
        while (elapsed_s := time.perf_counter() - start) < seconds:
            images, handed = next(batches)
            num_images += images
            num_bytes += handed
        cpu_s = tree_cpu_s() - cpu_s
    return {
        "images_per_s": num_images / elapsed_s,
        "cpu_ms_per_image": 1000 * cpu_s / num_images,
        "bytes_per_image": num_bytes / num_images,
    }


def compare(setting: Setting, seconds: float, repeats: int, only: str | None = None) -> list[dict[str, Any]]:
    """All contenders in turn, several times over; one line for each."""
    chosen = {name: one for name, one in contenders(setting).items() if only is None or only in name}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with tqdm(total=repeats * len(chosen), desc=setting.shards.name, disable=not sys.stderr.isatty()) as bar:
        for _ in range(repeats):
            for name, (_, opener) in chosen.items():
                measured[name].append(measure(opener, setting, seconds))
                bar.update()
    return [
        {
            "contender": name,
            "keep_rate": chosen[name][0],
            "images_per_s": spread([one["images_per_s"] for one in found]),
            "cpu_ms_per_image": spread([one["cpu_ms_per_image"] for one in found]),
            "bytes_per_image": round(found[-1]["bytes_per_image"]),
        }
        for name, found in measured.items()
    ]


def ratios(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rates that ``TARGETS`` compares, repeat by repeat, of the contenders that were measured."""
    rates = {line["contender"]: line["images_per_s"]["values"] for line in lines}
    return [
        {
            "rate_of": one,
            "over": other,
            "ratio": spread([a / b for a, b in zip(rates[one], rates[other], strict=True)]),
            "target": target,
        }
        for (one, other), target in TARGETS.items()
        if one in rates and other in rates
    ]


def describe(lines: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    width = max(len(line["contender"]) for line in lines)
    rows = [f"{'':{width}} {'images/s':>8} {'(min to max)':>14} {'CPU ms':>7} {'bytes/image':>12}"]
    for line in lines:
        rate, cpu = line["images_per_s"], line["cpu_ms_per_image"]["median"]
        extremes = f"({rate['min']:.0f} to {rate['max']:.0f})"
        rows.append(
            f"{line['contender']:{width}} {rate['median']:8.0f} {extremes:>14} {cpu:7.2f} {line['bytes_per_image']:12,}"
        )
    return "\n".join(rows)


def describe_ratios(found: list[dict[str, Any]]) -> str:
    """What was hoped for and what came of it, one line each."""
    return "\n".join(
        f"{line['rate_of']} over {line['over']}: {line['ratio']['median']:.2f} "
        f"({line['ratio']['min']:.2f} to {line['ratio']['max']:.2f}), hoped for: at least {line['target']:g}"
        for line in found
    )


def settings(batch_size: int, workers: int, data: Path, num_photographs: int) -> dict[str, Setting]:
    """The data sets by name; ``data`` is the folder of the photographs, which are made where they are missing.

    Raises:
        ValueError, OSError: there are no shards, or other ones.
    """
    write_photographs(data, num_photographs, workers=workers)
    if not (FASHION_MNIST / "dataset.json").exists():
        raise FileNotFoundError(f"{FASHION_MNIST}: no shards; make them with: make data")
    return {
        "photographs": Setting(data, 224, 16, 10, batch_size, workers),
        "fashion_mnist": Setting(FASHION_MNIST, 28, 4, 10, batch_size, workers),
    }


def with_resized_shards(setting: Setting, num_photographs: int) -> Setting:
    """The photographs with their shards of shrunk images, which are made where they are missing."""
    resized = setting.shards.with_name(f"{setting.shards.name}-{RESIZED_PIXELS}")
    encoding = Encoding(resize_shorter=RESIZED_PIXELS)
    write_photographs(resized, num_photographs, workers=setting.workers, encoding=encoding)
    return replace(setting, resized_shards=resized)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("loader", __doc__)
    parser.add_argument("--cores", type=int, default=2, help="cores, and worker threads or processes of each contender")
    parser.add_argument("--seconds", type=float, default=1.5, help="timed in each repeat (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--only", help="contenders with this in their name")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    fork_workers_safely()
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.ERROR)
    found = {}
    data_sets = settings(options.batch_size, options.cores, options.data, options.photographs)
    data_sets["photographs"] = with_resized_shards(data_sets["photographs"], options.photographs)
    for name, setting in data_sets.items():
        found[name] = compare(setting, options.seconds, options.repeats, options.only)
        print(
            f"{name}, batches of {options.batch_size}, {options.cores} workers\n{describe(found[name])}\n", flush=True
        )
    targets = ratios(found["photographs"])
    print(describe_ratios(targets))
    facts = {name: getattr(options, name) for name in ("cores", "seconds", "repeats", "batch_size", "photographs")}
    write_result(
        options.out,
        "benchmarks.loader",
        argv,
        {
            **facts,
            "data_sets": found,
            "ratios": targets,
            "fast_idct_levels": fast_idct_levels(data_sets["photographs"]),
        },
        load_before,
    )


if __name__ == "__main__":
    main()
