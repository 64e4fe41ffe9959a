"""How far each selection rule agrees with the paper's, on Fashion-MNIST and on photographs at 224.

    make data && python -m benchmarks.agreement

Trains what is needed: the default Fashion-MNIST run (only read if runs/fashion_mnist_seed0 is finished), and a small
ViT/16 that is pre-trained by reconstruction on synthetic photographs, so that its embedding has learned to look at
photographs. Then runs ``tools.agreement`` on both. Writes benchmarks/results/agreement_*.json,
docs/images/agreement_*.png and docs/rules.md. About ten minutes on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.seeded_runs import run_with_seed
from benchmarks.shared.photographs import write_image_folder
from benchmarks.shared.shell import ROOT, environment

PHOTOS = Path("runs/photographs")
NUM_PHOTOGRAPHS = 600
CONFIG = {
    "name": "photographs",
    "task": "pretrain",
    "data": {"train": str(PHOTOS / "shards"), "val": str(PHOTOS / "shards"), "num_classes": 2},
    "selection": {"rule": "random"},
    "schedule": {"kind": "constant", "keep_rate": 0.25},
    "model": {"name": "vit_tiny_patch16_224", "options": {"embed_dim": 384, "num_heads": 6, "depth": 1}},
    "pretrain": {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    "train": {"duration": "150steps", "global_batch_size": 16},
    "optim": {"lr": 1.5e-3, "warmup": "10steps"},
    "engine": {"num_threads": 1},
    "eval": {"keep_rates": [0.25], "micro_batch_size": 50},
}

PAGE = Path("docs/rules.md")
TEXT = Path(__file__).with_suffix(".md")


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
        python("engine.train", "--config", PHOTOS / "config.yaml", "--out", run)
    return run


def section(title: str, result: dict[str, Any], picture: str) -> str:
    """One data set's table and picture."""
    exact = result["rules"][0]
    rates = list(exact["overlap"])
    lines = [
        f"\n## {title}\n",
        f"{result['num_images']} validation images of {result['image_size']} pixels in patches of "
        f"{result['patch_size']}; {result['hardware']['cpu']}, one core, {result['repeats']} interleaved repeats.\n",
        f"| rule | {' | '.join(f'keep {rate}' for rate in rates)} | rank corr. | µs/image | of exact | multiply-adds |",
        "|---" * (len(rates) + 5) + "|",
    ]
    for rule in result["rules"]:
        shares = " | ".join(f"{rule['overlap'][rate]:.1%}" for rate in rates)
        correlation = "" if rule["rank_correlation"] is None else f"{rule['rank_correlation']:.3f}"
        low, high = rule["cost_us_spread"]
        lines.append(
            f"| {rule['name']} | {shares} | {correlation} | {rule['cost_us']:.0f} ({low:.0f} to {high:.0f}) | "
            f"{rule['cost_us'] / exact['cost_us']:.0%} | {rule['multiply_adds']:,} |"
        )
    return "\n".join([*lines, f"\n![Agreement against cost]({picture})\n"])


def main() -> None:
    run_with_seed("configs/fashion_mnist.yaml", 0, 2)
    for name, run in (("fashion_mnist", Path("runs/fashion_mnist_seed0")), ("photographs", train_on_photographs())):
        files = ["--json", f"benchmarks/results/agreement_{name}.json", "--png", f"docs/images/agreement_{name}.png"]
        python("tools.agreement", run, "--images", "180", *files)
    titles = {"photographs": "Photographs, 16-pixel patches", "fashion_mnist": "Fashion-MNIST, 4-pixel patches"}
    results = {name: json.loads(Path(f"benchmarks/results/agreement_{name}.json").read_text()) for name in titles}
    parts = [section(titles[name], results[name], f"images/agreement_{name}.png") for name in titles]
    PAGE.write_text(TEXT.read_text().replace("{sections}", "\n".join(parts)))


if __name__ == "__main__":
    main()
