"""What does the loader make of addressable JPEGs that are damaged, where it reads and decodes no more than it needs?

    python -m benchmarks.damaged_jpegs

Real photographs, damaged at random in every way that stands in ``kinds``, become patches by the loader's own path:
random crops, the rule ``random``, keep rates in turns. Each row is held against what the ordinary way makes of the same
file, in which whole files are read and decoded, and against the sound file. It runs in processes of their own, so that
a crash is counted. Writes benchmarks/results/damaged_jpegs.json; some minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.damaged_jpegs.kinds import DamagedShards, open_damaged_shards, write_damaged_shards
from benchmarks.damaged_jpegs.outcomes import CRASH, FINDINGS, KEEP_RATES, Judge
from benchmarks.measuring import RESULTS, write_result
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader

BATCH_SIZE = 24
_SHOWN = 3  # causes of each kind


def read_images(folder: Path) -> list[bytes]:
    """The training images of a folder of shards."""
    index = open_index(folder, "train")
    with SampleReader(index) as reader:
        return [image.tobytes() for image in reader.read(np.arange(index.num_samples))]


def batches_of(num_images: int) -> list[list[int]]:
    """Sample ids of each batch."""
    return [list(range(first, min(first + BATCH_SIZE, num_images))) for first in range(0, num_images, BATCH_SIZE)]


def judge_batches(shards: DamagedShards, batches: list[tuple[int, list[int]]], seed: int) -> None:
    """A child's work: a line for each batch, before and after."""
    with SampleReader(shards.index) as reader:
        judge = Judge(shards, reader, batch_size=BATCH_SIZE, seed=seed)
        for number, ids in batches:
            found = judge.judge(judge.plan(number, ids))
            print(json.dumps({"number": number, "found": [(one.outcome, one.causes) for one in found]}), flush=True)


def run_child(folder: Path, batches: list[tuple[int, list[int]]], arguments: argparse.Namespace) -> list[Any]:
    """What a process of its own finds of some batches, as far as it comes; an error of Python's ends all."""
    command = [sys.executable, "-m", "benchmarks.damaged_jpegs", "--child", str(folder), json.dumps(batches)]
    command += ["--data", str(arguments.data), "--images", str(arguments.images), "--seed", str(arguments.seed)]
    # What decoders say of every damaged image would fill the screen; an error of Python's stands at the end of it.
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode > 0:
        raise SystemExit(f"a process of the benchmark ended with code {done.returncode}: {done.stderr[-2000:]}")
    lines = [json.loads(line)["found"] for line in done.stdout.splitlines()]
    if done.returncode < 0:
        print(f"a process ended by signal {-done.returncode}", file=sys.stderr)
    return lines


def judge_all(folder: Path, arguments: argparse.Namespace) -> list[Any]:
    """(outcome, causes) of every image. A batch that ends its process is tried again, image for image."""
    found: dict[int, Any] = {}
    waiting = list(enumerate(batches_of(arguments.images)))
    while waiting:
        done = run_child(folder, waiting, arguments)
        for (_, ids), rows in zip(waiting, done, strict=False):
            found |= dict(zip(ids, rows, strict=True))
        waiting = waiting[len(done) :]
        print(f"{len(found)} of {arguments.images} images", file=sys.stderr, flush=True)
        if waiting and len(waiting[0][1]) == 1:
            found[waiting.pop(0)[1][0]] = [CRASH, []]
        elif waiting:
            number, ids = waiting.pop(0)
            waiting = [(number, [i]) for i in ids] + waiting
    return [found[i] for i in range(arguments.images)]


def summed_up(shards: DamagedShards, found: list[Any]) -> dict[str, Any]:
    """Outcomes of each kind of damage, causes that were told, and every finding."""
    kinds: dict[str, Any] = {}
    for kind, (outcome, causes) in zip(shards.kinds, found, strict=True):
        entry = kinds.setdefault(kind, {"images": 0, "outcomes": Counter(), "causes": Counter()})
        entry["images"] += 1
        entry["outcomes"][outcome] += 1
        entry["causes"].update(set(causes))
    for entry in kinds.values():
        entry["causes"] = dict(entry["causes"].most_common(_SHOWN))
    totals = Counter(outcome for outcome, _ in found)
    findings = [
        {"sample_id": i, "kind": kind, "outcome": outcome, "causes": causes}
        for i, (kind, (outcome, causes)) in enumerate(zip(shards.kinds, found, strict=True))
        if outcome in FINDINGS
    ]
    return {"outcomes": dict(totals.most_common()), "findings": findings, "kinds": kinds}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.damaged_jpegs", description=(__doc__ or "").split("\n")[0])
    photographs = Path("data/real-photographs-addressable")
    parser.add_argument("--data", type=Path, default=photographs, help="addressable shards (default: %(default)s)")
    parser.add_argument("--images", type=int, default=3000, help="damaged ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage and the crops (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "damaged_jpegs.json", help="(default: %(default)s)")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "BATCHES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images = read_images(arguments.data)
    load_before = os.getloadavg()[0]
    if arguments.child:
        shards = open_damaged_shards(Path(arguments.child[0]), images, arguments.images)
        judge_batches(shards, json.loads(arguments.child[1]), arguments.seed)
        return 0
    with tempfile.TemporaryDirectory(prefix="damaged-jpegs-") as folder:
        shards = write_damaged_shards(Path(folder), images, arguments.images, arguments.seed)
        found = summed_up(shards, judge_all(Path(folder), arguments))
    settings = {"images": arguments.images, "keep_rates": KEEP_RATES, "seed": arguments.seed}
    write_result(arguments.out, "benchmarks.damaged_jpegs", sys.argv[1:], {**settings, **found}, load_before)
    for outcome, count in found["outcomes"].items():
        print(f"{count:5} {outcome}")
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
