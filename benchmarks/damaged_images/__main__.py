"""Do conversion, check and loader say the same of image files that are damaged, and does none of them die of one?

    python -m benchmarks.damaged_images

Files of every kind that stands in ``files``, damaged in every way that stands in ``kinds``, are converted; they are put
into shards as they are, which are indexed and verified; and the loader reads both what was converted and what was not.
What it makes of a sample is found by its own reader and graph in processes of their own, so that a crash is counted.
Writes benchmarks/results/damaged_images.json; some minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.damaged_images.loading import BATCH_SIZE, LoaderJudge
from benchmarks.damaged_images.shards import NUM_SOUND, DamagedFile, damaged_files, write_shards, write_source
from benchmarks.damaged_images.verdicts import (
    ANEW,
    BAD,
    CONVERTED_BAD,
    CONVERTED_FAULT,
    CRASH,
    FAULT,
    KEPT,
    PASSES,
    READS,
    REJECTED,
    Verdicts,
    summed_up,
)
from benchmarks.measuring import RESULTS, write_result
from pipeline.shards.exclusion import exclusion_path, known_samples
from pipeline.shards.index import build_index, open_index
from pipeline.shards.reader import SampleReader
from tools.shards.convert import Settings, convert
from tools.shards.dataset import REJECTED_NAME
from tools.shards.sources.table import open_source
from tools.shards.verify import verify_folder

_ROOT = Path(__file__).parents[2]


def converted_files(folder: Path, files: list[DamagedFile], workers: int) -> dict[int, tuple[str, str]]:
    """(verdict, reason) of each file by its number; what is written lies in ``folder/converted``."""
    out, source = folder / "converted", write_source(folder / "source", files)
    convert(open_source(source, folder), source, out, Settings(), workers=workers)
    rejected = [json.loads(line) for line in (out / REJECTED_NAME).read_text().splitlines()]
    found = {int(Path(entry["source"]).stem): (REJECTED, entry["reason"]) for entry in rejected}
    index = open_index(out, "train")
    with SampleReader(index) as reader:
        for label, image in zip(index.label.tolist(), reader.read(np.arange(len(index.label))), strict=True):
            found[label] = (KEPT if image.tobytes() == files[label].data else ANEW, "")
    return found


def check(folder: Path, workers: int) -> dict[int, str]:
    """The reason against each sample of indexed shards that has one, by its number: its label."""
    index = open_index(folder, "train")
    labels = {(index.shards[shard].name, index.key(i)): int(index.label[i]) for i, shard in enumerate(index.shard)}
    faults = verify_folder(folder, workers=workers).faults
    # What the index leaves out has no label there; a file of those shards has its number for a name.
    left_out = {int(one.key): one.reason for one in known_samples(exclusion_path(folder, "train"), index.fingerprint)}
    return left_out | {labels[fault.shard, fault.key]: fault.reason for fault in faults if fault.key}


def judge_in_child(folder: Path, batches: list[list[int]]) -> list[list[str]]:
    """What a process of its own finds of some batches, as far as it comes; an error of Python's ends all."""
    command = [sys.executable, "-m", "benchmarks.damaged_images", "--child", str(folder), json.dumps(batches)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", cwd=_ROOT)
    if done.returncode > 0:
        raise SystemExit(f"a process of the benchmark ended with code {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge_by_loader(folder: Path) -> dict[int, str]:
    """The cause why the loader cannot use a sample, empty where it can, by its number.

    A batch that ends its process is halved until the sample that does it is found.
    """
    index = open_index(folder, "train")
    num_samples = len(index.label)
    waiting = [list(range(i, min(i + BATCH_SIZE, num_samples))) for i in range(0, num_samples, BATCH_SIZE)]
    found: dict[int, str] = {}
    while waiting:
        done = judge_in_child(folder, waiting)
        for ids, causes in zip(waiting, done, strict=False):
            found |= {int(index.label[i]): cause for i, cause in zip(ids, causes, strict=True)}
        waiting = waiting[len(done) :]
        if waiting and len(waiting[0]) == 1:
            found[int(index.label[waiting.pop(0)[0]])] = CRASH
        elif waiting:
            ids = waiting.pop(0)
            waiting = [ids[: len(ids) // 2], ids[len(ids) // 2 :], *waiting]
    return found


def judge_batches(folder: Path, batches: list[list[int]]) -> None:
    """A child's work: a line for each batch."""
    index = open_index(folder, "train")
    with SampleReader(index) as reader:
        judge = LoaderJudge(index, reader)
        for ids in batches:
            print(json.dumps(judge.judge(ids)), flush=True)


def judge_all(folder: Path, files: list[DamagedFile], workers: int) -> list[Verdicts]:
    """The verdicts on every file."""
    converted = converted_files(folder, files, workers)
    print("converted", file=sys.stderr, flush=True)
    write_shards(folder / "foreign", files)
    build_index(folder / "foreign", "train", (folder / "foreign").glob("*.tar"), leave_out_faulty=True)
    faults, converted_faults = check(folder / "foreign", workers), check(folder / "converted", workers)
    print("checked", file=sys.stderr, flush=True)
    loaded, converted_loaded = judge_by_loader(folder / "foreign"), judge_by_loader(folder / "converted")
    print("loaded", file=sys.stderr, flush=True)
    verdicts = []
    for one in files:
        conversion, reason = converted[one.number]
        cause = loaded.get(one.number, faults.get(one.number, ""))  # what the index leaves out is never loaded
        verdicts.append(
            Verdicts(
                conversion,
                FAULT if one.number in faults else PASSES,
                CRASH if cause == CRASH else BAD if cause else READS,
                reason or faults.get(one.number, "") or cause,
                _wrong(converted_faults.get(one.number, ""), converted_loaded.get(one.number, "")),
            )
        )
    return verdicts


def _wrong(fault: str, cause: str) -> str:
    """What is wrong with what the conversion wrote."""
    if cause == CRASH:
        return CRASH
    return CONVERTED_FAULT if fault else CONVERTED_BAD if cause else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.damaged_images", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=3255, help="damaged ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of conversion and check (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "damaged_images.json", help="(default: %(default)s)")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "BATCHES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        judge_batches(Path(arguments.child[0]), json.loads(arguments.child[1]))
        return 0
    load_before, files = os.getloadavg()[0], damaged_files(arguments.files, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="damaged-images-") as folder:
        verdicts = judge_all(Path(folder), files, arguments.workers)
    found: dict[str, Any] = summed_up(files[:-NUM_SOUND], verdicts[:-NUM_SOUND])
    settings = {"num_files": arguments.files, "seed": arguments.seed}
    write_result(arguments.out, "benchmarks.damaged_images", sys.argv[1:], {**settings, **found}, load_before)
    for outcome, count in found["outcomes"].items():
        print(f"{count:5} {outcome}")
    print(f"{len(found['findings'])} finding(s)")
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
