"""Images per second of the loader beside its peers.

    make data && python -m benchmarks.loader

On photographs of about 500 x 375 pixels (made at first use) and on Fashion-MNIST. Every contender reads the same
shards, with as many worker threads or processes as cores, crops and mirrors at random and resizes with antialiasing; it
is opened, warmed up, and then timed for some seconds, all in turn and several times over. Recorded: images per second,
CPU seconds of all processes per image, and bytes per image that are handed to the trainer. About ten minutes on two
cores. Writes benchmarks/results/loader.json.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.loader_ours import Ours, decoding_alone, without_selection
from benchmarks.loader_peers import (
    Batches,
    Setting,
    dali_reader,
    timm_naflex,
    timm_webdataset,
    webdataset_torchvision,
)
from benchmarks.measuring import benchmark_parser, keep_to_cores, spread, tree_cpu_s, write_result
from benchmarks.photographs import write_photographs

Open = Callable[[Setting], AbstractContextManager[Batches]]

KEEP_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
# Each of these is measured at every keep rate. One line for each further configuration of the loader.
OURS = {
    "random": Ours({"rule": "random"}),
    "grid": Ours({"rule": "grid"}),
    "contrast": Ours({"rule": "contrast"}),
}
if torch.cuda.is_available():
    OURS["contrast, decoded on the GPU"] = Ours({"rule": "contrast"}, data={"device": "gpu"})
# Whole images, whatever a model drops later.
WHOLE: dict[str, Open] = {
    "ours, without selection": without_selection,
    "ours, decoding alone": decoding_alone,
    "timm, WebDataset": timm_webdataset,
    "timm, NaFlex": timm_naflex,
    "webdataset and torchvision v2": webdataset_torchvision,
    "DALI's own reader": dali_reader,
}
FASHION_MNIST = Path("data/fashion-mnist")
# Batches that a contender may hold ready: four of PyTorch's workers, or the loader's queue and what DALI holds.
WARMUP_BATCHES = 8


def contenders() -> dict[str, tuple[float | None, Open]]:
    """By name: the keep rate, None where whole images come out, and what opens it."""
    found: dict[str, tuple[float | None, Open]] = {}
    for name, ours in OURS.items():
        for keep_rate in KEEP_RATES:
            found[f"ours, {name}, keep {keep_rate:g}"] = keep_rate, partial(ours.open, keep_rate=keep_rate)
    return found | {name: (None, opener) for name, opener in WHOLE.items()}


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
    chosen = {name: one for name, one in contenders().items() if only is None or only in name}
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


def describe(lines: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    rows = [f"{'':32} {'images/s':>8} {'(min to max)':>14} {'CPU ms':>7} {'bytes/image':>12}"]
    for line in lines:
        rate, cpu = line["images_per_s"], line["cpu_ms_per_image"]["median"]
        extremes = f"({rate['min']:.0f} to {rate['max']:.0f})"
        rows.append(
            f"{line['contender']:32} {rate['median']:8.0f} {extremes:>14} {cpu:7.2f} {line['bytes_per_image']:12,}"
        )
    return "\n".join(rows)


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


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("loader", __doc__)
    parser.add_argument("--cores", type=int, default=2, help="cores, and worker threads or processes of each contender")
    parser.add_argument("--seconds", type=float, default=1.5, help="timed in each repeat (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--only", help="contenders with this in their name")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.ERROR)
    found = {}
    for name, setting in settings(options.batch_size, options.cores, options.data, options.photographs).items():
        found[name] = compare(setting, options.seconds, options.repeats, options.only)
        print(
            f"{name}, batches of {options.batch_size}, {options.cores} workers\n{describe(found[name])}\n", flush=True
        )
    facts = {name: getattr(options, name) for name in ("cores", "seconds", "repeats", "batch_size", "photographs")}
    write_result(options.out, "benchmarks.loader", argv, {**facts, "data_sets": found}, load_before)


if __name__ == "__main__":
    main()
