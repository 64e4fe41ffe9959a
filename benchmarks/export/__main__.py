"""Does a run's export classify with plain timm as the run's own validation says?

    python -m benchmarks.export runs/fashion_mnist runs/photograph_crops

timm's transform, made of nothing but the export's own configuration, sees the validation set's files through Pillow,
and timm's model sees what comes of it. Against that: the top-1 of ``summary.json`` at full patches, and for the first
images the pixels that the loader makes and the logits that the same model gives for them. Writes
benchmarks/results/export.json.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.export.compared import agreement
from benchmarks.measuring import RESULTS, write_result


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="benchmarks.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="of a finished run")
    parser.add_argument("--out", type=Path, default=RESULTS / "export.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    found = []
    for folder in options.runs:
        found.append(agreement(folder))
        print(found[-1], flush=True)
    write_result(options.out, "benchmarks.export", argv, {"runs": [asdict(one) for one in found]}, load_before)


if __name__ == "__main__":
    main()
