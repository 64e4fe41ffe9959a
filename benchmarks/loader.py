"""Images per second of the loader beside its peers.

    make data && python -m benchmarks.loader

On photographs of about 500 x 375 pixels (made at first use, or other shards, named by --data) and on Fashion-MNIST.
Every contender reads the same shards, with as many worker threads or processes as cores, crops and mirrors at random
and resizes with antialiasing; those named ``recipe`` augment as the project's ImageNet recipes do, and those named
``addressable`` read the same photographs as addressable JPEGs (made at first use by jpegtran, into a folder beside
theirs; left out where there is no jpegtran and no such folder). Each is opened, warmed up, and then timed for some
seconds, all in turn and several times over. Recorded: images per second, CPU seconds of all processes per image, and
bytes per image that are handed to the trainer. Nearly half an hour on two cores. Some contenders need the packages of
the optional group ``bench`` and are left out where these are missing. Where a GPU is, those named ``decoded on the
GPU`` decode there and leave their batches there; all others hand on batches in main memory. --threads measures ours
with fewer worker threads as well. Writes benchmarks/results/loader.json.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.contenders import ADDRESSABLE, FASTEST, KEEP_RATES, TARGETS, Choice, Open, cases_of_ours, unable
from benchmarks.loader_ours import fast_idct_levels
from benchmarks.loader_peers import Setting
from benchmarks.measuring import benchmark_parser, fork_workers_safely, keep_to_cores, spread, tree_cpu_s, write_result
from benchmarks.photographs import write_photographs
from pipeline.shards.index import open_index
from tools.shards.addressable import check_jpegtran
from tools.shards.convert import DATASET_NAME
from tools.shards.images import Encoding
from tools.shards.maps.score import MapJob, score_folder
from tools.shards.readdress import readdress

RESIZED_PIXELS = 256  # of the shorter side, in shards made so
DATA_SETS = ("photographs", "fashion_mnist")
FASHION_MNIST = Path("data/fashion-mnist")
FEWEST_WARMUP_BATCHES = 8  # more than the loader's queue and what DALI holds
BATCHES_AHEAD = 2  # that each of PyTorch's workers may hold ready
PEERS = ("torchvision", "webdataset", "simplejpeg", "opencv-python-headless", "spdl")  # whose versions are recorded


def measure(opener: Open, setting: Setting, seconds: float) -> dict[str, float]:
    """One repeat of one contender, timed once it has used up what it had ready at the start."""
    with opener(setting) as batches:
        for _ in range(max(FEWEST_WARMUP_BATCHES, BATCHES_AHEAD * setting.workers)):
            next(batches)
        finish_on_gpu()
        num_images = num_bytes = 0
        cpu_s, start = tree_cpu_s(), time.perf_counter()
        while (elapsed_s := time.perf_counter() - start) < seconds:
            images, handed = next(batches)
            num_images += images
            num_bytes += handed
        finish_on_gpu()  # it hands batches over before it has made them
        elapsed_s, cpu_s = time.perf_counter() - start, tree_cpu_s() - cpu_s
    return {
        "images_per_s": num_images / elapsed_s,
        "cpu_ms_per_image": 1000 * cpu_s / num_images,
        "bytes_per_image": num_bytes / num_images,
    }


def finish_on_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compare(setting: Setting, seconds: float, repeats: int, choice: Choice) -> list[dict[str, Any]]:
    """The contenders that take part in turn, several times over; one line for each."""
    taking_part = choice.of(setting)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in taking_part}
    with tqdm(total=repeats * len(taking_part), desc=setting.shards.name, disable=not sys.stderr.isatty()) as bar:
        for _ in range(repeats):
            for name, (_, opener) in taking_part.items():
                measured[name].append(measure(opener, setting, seconds))
                bar.update()
    return [
        {
            "contender": name,
            "keep_rate": taking_part[name][0],
            "images_per_s": spread([one["images_per_s"] for one in found]),
            "cpu_ms_per_image": spread([one["cpu_ms_per_image"] for one in found]),
            "bytes_per_image": round(found[-1]["bytes_per_image"]),
        }
        for name, found in measured.items()
    ]


def over_threads(
    setting: Setting, threads: Iterable[int], seconds: float, repeats: int, choice: Choice
) -> list[dict[str, Any]]:
    """Ours with other numbers of worker threads: the lines of ``compare`` with ``threads``."""
    names = tuple(name for name in choice.of(setting) if name in cases_of_ours())
    return [
        {"threads": number, **line}
        for number in threads
        for line in compare(replace(setting, workers=number), seconds, repeats, replace(choice, only=names))
    ]


def ratios(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rates that ``TARGETS`` compares, repeat by repeat, of the contenders that were measured."""
    medians = {line["contender"]: line["images_per_s"]["median"] for line in lines}
    rates = {line["contender"]: line["images_per_s"]["values"] for line in lines}
    fastest = {
        name: max((one for one in several if one in rates), key=lambda one: medians[one])
        for name, several in FASTEST.items()
        if any(one in rates for one in several)
    }
    rates |= {name: rates[one] for name, one in fastest.items()}
    return [
        {
            "rate_of": one,
            "over": other,
            **({"which_is": fastest[other]} if other in fastest else {}),
            "ratio": spread([a / b for a, b in zip(rates[one], rates[other], strict=True)]),
            "target": target,
        }
        for (one, other), target in TARGETS.items()
        if one in rates and other in rates
    ]


def describe(lines: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    width = max((len(line["contender"]) for line in lines), default=0)
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
        f"{line['rate_of']} over {line.get('which_is', line['over'])}: {line['ratio']['median']:.2f} "
        f"({line['ratio']['min']:.2f} to {line['ratio']['max']:.2f})"
        + ("" if line["target"] is None else f", hoped for: at least {line['target']:g}")
        for line in found
    )


def dataset_of(data: Path) -> dict[str, Any] | None:
    """The ``dataset.json`` of shards, None where there are none."""
    path = data / DATASET_NAME
    return json.loads(path.read_text()) if path.exists() else None


def are_drawn(data: Path) -> bool:
    """Whether shards are synthetic photographs of ours, or still to be made as such."""
    dataset = dataset_of(data)
    return dataset is None or dataset["source"].startswith("photographs:")


def settings(
    batch_size: int, workers: int, data: Path, num_photographs: int, names: Iterable[str] = DATA_SETS
) -> dict[str, Setting]:
    """The data sets by name; ``data`` is the folder of the photographs.

    What is missing there is drawn; other shards than drawn ones are taken as they are.

    Raises:
        ValueError, OSError: there are no shards, or other ones.
    """
    found = {}
    for name in names:
        if name == "photographs":
            if are_drawn(data):
                write_photographs(data, num_photographs, workers=workers)
            dataset = dataset_of(data)
            assert dataset is not None
            found[name] = Setting(data, 224, 16, len(dataset["classes"]), batch_size, workers)
        elif name == "fashion_mnist":
            if dataset_of(FASHION_MNIST) is None:
                raise FileNotFoundError(f"{FASHION_MNIST}: no shards; make them with: make data")
            found[name] = Setting(FASHION_MNIST, 28, 4, 10, batch_size, workers)
        else:
            raise ValueError(f"data set '{name}'; allowed are {', '.join(DATA_SETS)}")
    return found


def with_resized_shards(setting: Setting, num_photographs: int) -> Setting:
    """The drawn photographs with their shards of shrunk images, which are made where they are missing."""
    if not are_drawn(setting.shards):
        return setting
    resized = setting.shards.with_name(f"{setting.shards.name}-{RESIZED_PIXELS}")
    encoding = Encoding(resize_shorter=RESIZED_PIXELS)
    write_photographs(resized, num_photographs, workers=setting.workers, encoding=encoding)
    return replace(setting, resized_shards=resized)


def with_addressable_shards(setting: Setting) -> tuple[Setting, dict[str, str]]:
    """The photographs with their shards of addressable JPEGs, which are made where they are missing.

    Returns:
        Also the contenders that are left out because they cannot be made here, and what is missing.

    Raises:
        ValueError, OSError: there are other shards where they should be, or the disk refuses.
    """
    addressable = setting.shards.with_name(f"{setting.shards.name}-addressable")
    if dataset_of(addressable) is None and (why := missing_jpegtran()) is not None:
        return setting, {f"ours, {name}": why for name in ADDRESSABLE}
    readdress(setting.shards, addressable, workers=setting.workers)
    score_folder(addressable, MapJob("bytes"), workers=setting.workers)
    return replace(setting, addressable_shards=addressable), {}


def with_further_shards(setting: Setting, choice: Choice, num_photographs: int) -> tuple[Setting, dict[str, str]]:
    """``with_resized_shards`` and ``with_addressable_shards``, as far as anyone who takes part reads them."""
    wanted = choice.shards()
    if "resized_shards" in wanted:
        setting = with_resized_shards(setting, num_photographs)
    return with_addressable_shards(setting) if "addressable_shards" in wanted else (setting, {})


def missing_jpegtran() -> str | None:
    """What addressable JPEGs cannot be made without here, or None."""
    try:
        check_jpegtran()
    except FileNotFoundError:
        return "needs jpegtran (Debian: apt-get install libjpeg-turbo-progs)"
    return None


def facts_of(setting: Setting) -> dict[str, Any]:
    """The photographs' number, where they are from, and how large their files are."""
    dataset, lengths = dataset_of(setting.shards), open_index(setting.shards, "train").length
    assert dataset is not None
    return {"photographs": len(lengths), "source": dataset["source"], "mean_file_bytes": round(float(lengths.mean()))}


def versions() -> dict[str, str | None]:
    """Of the peers that ``describe_hardware`` does not tell; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("loader", __doc__)
    parser.add_argument("--cores", type=int, default=2, help="cores, and worker threads or processes of each contender")
    parser.add_argument("--seconds", type=float, default=1.5, help="timed in each repeat (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="contenders with one of these in their name"
    )
    parser.add_argument("--keep-rates", type=float, nargs="+", default=KEEP_RATES, choices=KEEP_RATES, help="of ours")
    parser.add_argument("--threads", type=int, nargs="+", default=[], help="of ours, beside as many as cores")
    parser.add_argument("--data-sets", nargs="+", default=DATA_SETS, choices=DATA_SETS, help="(default: both)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    fork_workers_safely()
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.ERROR)
    data_sets = settings(options.batch_size, options.cores, options.data, options.photographs, options.data_sets)
    left_out = unable()
    choice = Choice(tuple(options.only), tuple(options.keep_rates), frozenset(left_out))
    if "photographs" in data_sets:
        data_sets["photographs"], unmade = with_further_shards(data_sets["photographs"], choice, options.photographs)
        left_out |= unmade
    for name, why in left_out.items():
        print(f"left out: {name}, which {why}", file=sys.stderr)
    found, fewer = {}, {}
    timing = (options.seconds, options.repeats, choice)
    for name, setting in data_sets.items():
        heading = f"{name}, batches of {options.batch_size}"
        found[name] = compare(setting, *timing)
        print(f"{heading}, {options.cores} workers\n{describe(found[name])}\n", flush=True)
        fewer[name] = over_threads(setting, options.threads, *timing)
        for number in options.threads:
            lines = [line for line in fewer[name] if line["threads"] == number]
            print(f"{heading}, {number} threads\n{describe(lines)}\n", flush=True)
    result = {name: getattr(options, name) for name in ("cores", "seconds", "repeats", "batch_size")}
    result |= {"data_sets": found, "over_threads": fewer, "left_out": left_out, "versions": versions()}
    if "photographs" in data_sets:
        targets = ratios(found["photographs"])
        print(describe_ratios(targets))
        result |= facts_of(data_sets["photographs"])
        result |= {"ratios": targets, "fast_idct_levels": fast_idct_levels(data_sets["photographs"])}
    write_result(options.out, "benchmarks.loader", argv, result, load_before)


if __name__ == "__main__":
    main()
