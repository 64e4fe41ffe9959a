"""Shards in stores: the same weights from a disk, a web server and a bucket, and what happens when something fails.

    python -m benchmarks.stores

A toy set of 13 shards; two hosts of two ranks, which are network namespaces of this machine with a cache each, and
servers that are processes of their own (nginx, moto). Needs root, nginx and the programs that benchmarks.shared.hosts
names. Times are of a machine that does nothing else, or they say nothing; what is exact is exact on any. Writes
benchmarks/results/stores.json.

Exit codes: 0 all is as expected, 1 something is not, 2 this machine lacks something.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import RESULTS, write_result
from benchmarks.shared.hosts import why_impossible
from benchmarks.stores.faults import fault_cases
from benchmarks.stores.two_nodes import two_node_runs


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="benchmarks.stores", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "stores.json")
    options = parser.parse_args(argv)
    lacking = why_impossible() or ("nginx is not installed" if shutil.which("nginx") is None else None)
    if lacking is not None:
        print(f"error: {lacking}", file=sys.stderr)
        return 2
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="stores-") as temporary:
        folder = Path(temporary)
        (folder / "faults").mkdir()
        (folder / "runs").mkdir()
        faults, runs = fault_cases(folder / "faults"), two_node_runs(folder / "runs")
    same = len({run["weights_sha256"] for run in runs.values()}) == 1
    asked = [host for run in runs.values() for host in run.get("contents_asked_for", {}).values()]
    once = all(host["most_for_one_shard"] == 1 for host in asked)
    found = {"runs": runs, "same_weights": same, "each_host_asks_for_each_shard_once": once, "faults": faults}
    write_result(options.out, "benchmarks.stores", argv, found, load_before)
    return 0 if same and once and all(case["as_expected"] for case in faults) else 1


if __name__ == "__main__":
    sys.exit(main())
