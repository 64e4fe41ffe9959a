"""Does reconstruction pre-training pay? Fine-tuning from it beside the same run from scratch, with several seeds.

    make data && python -m benchmarks.fashion_mnist_pretrain

For each seed: configs/fashion_mnist_pretrain.yaml, then configs/fashion_mnist_finetune.yaml from its encoder, and
configs/fashion_mnist.yaml, which is the same run without pre-training (same schedule, rule, steps and optimizer). Equal
fine-tuning steps, not equal compute: pre-training comes on top. Writes benchmarks/results/fashion_mnist_pretrain.json.
About twelve minutes a seed on two cores; started again, it goes on where it stopped.
"""

import argparse
import json
from pathlib import Path

from benchmarks.seeded_runs import run_with_seed, top1_lines, top1_over_seeds
from engine.config import load_config
from engine.ranks.hardware import describe_hardware

RESULT = Path("benchmarks/results/fashion_mnist_pretrain.json")
PRETRAIN, FINETUNE, SCRATCH = (f"configs/fashion_mnist{kind}.yaml" for kind in ("_pretrain", "_finetune", ""))


def check_same_but_for_the_weights() -> None:
    """Raise ValueError if the two runs that are compared differ in more than where they start."""
    tuned, scratch = (load_config(path).model_dump(exclude={"name"}) for path in (FINETUNE, SCRATCH))
    for config in (tuned, scratch):
        config["model"] |= {"pretrained": None, "reset_head": False}
    different = [key for key in scratch if tuned[key] != scratch[key]]
    if different:
        raise ValueError(f"{FINETUNE} and {SCRATCH} differ in {', '.join(different)}; make these the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    check_same_but_for_the_weights()
    pretrained, tuned, scratch = {}, {}, {}
    for seed in arguments.seeds:
        pretrained[seed] = run_with_seed(PRETRAIN, seed, arguments.ranks)
        source = f"model.pretrained=local-dir:runs/{Path(PRETRAIN).stem}_seed{seed}/model"
        tuned[seed] = run_with_seed(FINETUNE, seed, arguments.ranks, source)
        scratch[seed] = run_with_seed(SCRATCH, seed, arguments.ranks)
    result = {
        "command": "python -m benchmarks.fashion_mnist_pretrain",
        "hardware": describe_hardware(),
        "ranks": arguments.ranks,
        "finetuned": top1_over_seeds(tuned),
        "from_scratch": top1_over_seeds(scratch),
        "pretraining": pretrained,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for name in ("finetuned", "from_scratch"):
        print("\n".join([f"{name.replace('_', ' ')}:", *top1_lines(result[name])]))
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
