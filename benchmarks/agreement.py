"""How far each selection rule agrees with the paper's, on Fashion-MNIST and on photographs at 224.

    make data && python -m benchmarks.agreement

Trains what is needed: the default Fashion-MNIST run (only read if runs/fashion_mnist_seed0 is finished), and a small
ViT/16 that is pre-trained by reconstruction on synthetic photographs, so that its embedding has learned to look at
photographs. Then runs ``tools.agreement`` on both. Writes benchmarks/results/agreement_*.json and
docs/images/agreement_*.png. About ten minutes on two cores.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.seeded_runs import run_with_seed
from benchmarks.toy_runs import ROOT, environment, write_image_folder

PHOTOS = Path("runs/photographs")
NUM_PHOTOGRAPHS = 600
CONFIG = {
    "name": "photographs",
    "task": "pretrain",
    "data": {"train": str(PHOTOS / "shards"), "val": str(PHOTOS / "shards"), "num_classes": 2},
    "selection": {"rule": "random"},
    "schedule": {"kind": "constant", "keep_rate": 0.25},
    "model": {"name": "vit_tiny_patch16_224", "options": {"embed_dim": 384, "num_heads": 6, "depth": 3}},
    "pretrain": {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    "train": {"duration": "400steps", "global_batch_size": 32},
    "optim": {"lr": 1.5e-3, "warmup": "20steps"},
    "eval": {"keep_rates": [0.25], "micro_batch_size": 50},
}


def python(*arguments: str | Path) -> None:
    """``python -m ARGUMENTS`` with one thread for NumPy, so that a cost is that of one core."""
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, env={**environment(), **one_thread}, check=True
    )


def train_on_photographs() -> Path:
    """The run folder of an encoder pre-trained on photographs; a finished one is only read."""
    run = PHOTOS / "run"
    if not (run / "summary.json").exists():
        if not (PHOTOS / "shards" / "dataset.json").exists():
            write_image_folder(PHOTOS / "images", NUM_PHOTOGRAPHS, 2)
            source = f"imagefolder:{PHOTOS / 'images'}"
            python("tools.shards", "convert", "--source", source, "--out", PHOTOS / "shards", "--val-fraction", "0.3")
        (PHOTOS / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        threads = ["--set", f"engine.num_threads={len(os.sched_getaffinity(0))}"]
        python("engine.train", "--config", PHOTOS / "config.yaml", "--out", run, *threads)
    return run


def main() -> None:
    run_with_seed("configs/fashion_mnist.yaml", 0, 2)
    for name, run in (("fashion_mnist", Path("runs/fashion_mnist_seed0")), ("photographs", train_on_photographs())):
        files = ["--json", f"benchmarks/results/agreement_{name}.json", "--png", f"docs/images/agreement_{name}.png"]
        python("tools.agreement", run, "--images", "180", *files)


if __name__ == "__main__":
    main()
