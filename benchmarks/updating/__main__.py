"""Does bringing a model up to date come near training anew, in a tenth of the time?

    python -m benchmarks.updating

Fashion-MNIST of which most coats and sneakers arrive later (see shards.py). With each seed: a model of the old images
(configs/fashion_mnist.yaml), models trained anew on all images, in full and in a tenth of the steps, and the first
model brought up to date in a tenth of the steps (configs/update.yaml): on the new images alone, weights free or held by
their Fisher information; on half of each; and on both as often as they are, weights free or held near the start.
Accuracy is told on old and new images apart.
Writes benchmarks/results/updating.json. Less than half an hour on two cores; started again, it goes on where it
stopped, and a run that is finished is only read.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measuring import RESULTS, write_result
from benchmarks.shared.shell import ROOT, command_of, environment
from benchmarks.updating.compared import compare, table
from benchmarks.updating.shards import DATA, write_sets
from benchmarks.updating.variants import BEFORE, FIRST, UPDATES, Lengths, Places, command_line, config_of
from tools.shards.fashion_mnist_files import find_fashion_mnist

FISHER_IMAGES = 1000


def train(names: Iterable[str], seeds: Sequence[int], places: Places, lengths: Lengths, ranks: int) -> None:
    """Train the runs of these variants that are not finished, seed by seed."""
    runs = list(itertools.product(seeds, names))
    for seed, name in runs:
        config_of(name, seed, places, lengths)  # a run that cannot be configured is told before any is trained
    jobs = [command_line(name, seed, places, lengths) for seed, name in runs]
    file = places.runs / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = command_of(ranks, "--module", "benchmarks.updating.ranks", file)
    done = subprocess.run(command, cwd=ROOT, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def weigh(seeds: Sequence[int], places: Places) -> None:
    """The Fisher information of the models that updates start from; how long it took stands beside the file."""
    for seed in seeds:
        out = places.fisher(seed)
        if out.exists():
            continue
        start = time.perf_counter()
        words = [str(places.run(BEFORE, seed)), "--samples", str(FISHER_IMAGES), "--out", str(out)]
        command = [sys.executable, "-m", "tools.fisher", *words]
        alone = environment() | {
            "OMP_NUM_THREADS": "1"
        }  # image by image, threads of a small model wait for one another
        subprocess.run(command, cwd=ROOT, env=alone, check=True)
        out.with_suffix(".json").write_text(json.dumps({"images": FISHER_IMAGES, "s": time.perf_counter() - start}))


def main(arguments: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.updating", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--ranks", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.5, help="of the long runs (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="made if need be (default: %(default)s)")
    parser.add_argument("--root", type=Path, default=Path("data/downloads"), help="of the files (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/updating"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "updating.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    places = Places(options.data.absolute(), options.runs.absolute())
    places.runs.mkdir(parents=True, exist_ok=True)
    write_sets(options.data, find_fashion_mnist(None, options.root))
    lengths = Lengths(options.epochs, config_of(BEFORE, 0, places, Lengths(1, 64)).train.global_batch_size)
    train(FIRST, options.seeds, places, lengths, options.ranks)
    weigh(options.seeds, places)
    train(UPDATES, options.seeds, places, lengths, options.ranks)
    found = compare(places, options.seeds)
    fisher = {seed: json.loads(places.fisher(seed).with_suffix(".json").read_text()) for seed in options.seeds}
    result = {"seeds": options.seeds, "epochs": options.epochs, "fisher": fisher, "variants": found}
    write_result(options.out, "benchmarks.updating", argv, result, load)
    print(table(found))


if __name__ == "__main__":
    main()
