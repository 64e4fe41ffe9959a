"""The same images prepared on one process, as parts and on a cluster of two hosts: are the bytes the same?

    python -m tools.shards convert --source fashion-mnist --out data/fashion-mnist
    python -m benchmarks.preparation

The first 50,000 training images of Fashion-MNIST as Parquet files, every 5,000th without its bytes, so that shards have
gaps. Parts run in an order that is drawn, and one of them is killed and run again. On the cluster, of two hosts made of
Linux namespaces, the command is killed at a quarter and run again, and one host is killed at half. Says nothing of
speed. Needs root, Ray (pip install '.[ray]') and what tests/multinode needs; --only leaves ways out. Writes
benchmarks/results/preparation.json.
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.measuring import RESULTS, write_result
from benchmarks.preparation.held import digests
from benchmarks.preparation.ways import in_one_process, in_parts, on_two_hosts
from benchmarks.shared.hosts import why_impossible
from tools.shards.fashion_mnist_files import find_fashion_mnist, read_fashion_mnist

ROWS_OF_A_FILE, ROWS_OF_A_GROUP, BROKEN_EVERY = 5000, 500, 5000
SHARD_SAMPLES = 1000
WAYS = ("one process", "parts", "cluster")


def write_source(folder: Path, num_images: int, downloads: Path) -> None:
    """The first training images of Fashion-MNIST in Hugging Face's layout."""
    images, labels = read_fashion_mnist(find_fashion_mnist(None, downloads), "train")
    folder.mkdir(parents=True)
    rows = [_row(number, images[number], int(labels[number])) for number in range(num_images)]
    for start in range(0, num_images, ROWS_OF_A_FILE):
        table = pa.Table.from_pylist(rows[start : start + ROWS_OF_A_FILE])
        pq.write_table(table, folder / f"train-{start // ROWS_OF_A_FILE:05d}.parquet", row_group_size=ROWS_OF_A_GROUP)


def _row(number: int, pixels: Any, label: int) -> dict[str, Any]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    is_broken = number % BROKEN_EVERY == BROKEN_EVERY - 1
    return {"image": {"bytes": b"" if is_broken else sink.getvalue()}, "label": label}


def why_no_cluster() -> str | None:
    """What this machine lacks for the cluster, or None."""
    try:
        version("ray")
    except PackageNotFoundError:
        return "Ray is not installed: pip install '.[ray]'"
    return why_impossible()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the images in each way and write what came of it."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.preparation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--num", type=int, default=50_000, help="images (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="(default: all)")
    parser.add_argument("--work", type=Path, default=Path("build/preparation"), help="made anew (default: %(default)s)")
    parser.add_argument(
        "--root", type=Path, default=Path("data/downloads"), help="of Fashion-MNIST (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "preparation.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    if "cluster" in options.only and (why := why_no_cluster()) is not None:
        raise SystemExit(f"error: no cluster of two hosts can be made here: {why}; leave it out with --only")
    load = os.getloadavg()[0]
    work = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    source = work / "source"
    write_source(source, options.num, options.root)
    num_shards = -(-options.num // SHARD_SAMPLES)
    ways: dict[str, Callable[[Path], dict[str, Any]]] = {
        "one process": lambda out: in_one_process(source, out),
        "parts": lambda out: in_parts(source, out, options.parts),
        "cluster": lambda out: on_two_hosts(source, out, num_shards, work),
    }
    found = {}
    for name in options.only:
        out = work / name.replace(" ", "-")
        told = ways[name](out)
        found[name] = {**told, **digests(out)}
        print(f"{name}: {found[name]}", file=sys.stderr)
    compared = ("num_samples", "num_tars", "tars", "rows", "fingerprints", "num_others", "others")
    held = [{key: one[key] for key in compared} for one in found.values()]
    result = {"num_images": options.num, "ways": found, "are_the_same": all(one == held[0] for one in held)}
    write_result(options.out, "benchmarks.preparation", argv, result, load)
    print("the same in every way" if result["are_the_same"] else "NOT the same")


if __name__ == "__main__":
    main()
