"""What a checkpoint of a ViT-S costs the training loop, beside DeepSpeed's own save.

    deepspeed --no_local_rank --num_accelerators 2 --module benchmarks.checkpoint_stall

Trains on random patches at keep 0.2 and saves after some of the steps, in turn as this project does and as DeepSpeed
does by itself (which neither hashes nor syncs). For each save: how long the loop stood still, how long it took until
the checkpoint counted, and what it cost altogether, slower steps while the files were written included. Writes
``benchmarks/results/checkpoint_stall.json``.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from engine.checkpoints.checkpoint import Checkpoints
from engine.models.build import build_model
from engine.optim import build_optimizer, param_groups
from engine.ranks.hardware import processor
from engine.ranks.world import World, join_world, leave_world

MODEL = "vit_small_patch16_224"
BATCH_PER_RANK, NUM_KEPT, NUM_PATCHES = 4, 38, 196
RESULT = Path(__file__).parent / "results" / "checkpoint_stall.json"


class Record:
    """Takes the place of the metrics file."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def sync(self) -> None:
        pass


def build_engine(world: World, zero_stage: int) -> deepspeed.DeepSpeedEngine:
    torch.manual_seed(0)
    model = build_model(
        MODEL, image_size=224, patch_size=16, num_classes=1000, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    groups = param_groups(model.to(world.device), weight_decay=0.05)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(groups, lr=1e-4, betas=(0.9, 0.999), eps=1e-8),
        config={
            "train_micro_batch_size_per_gpu": BATCH_PER_RANK,
            "zero_optimization": {"stage": zero_stage},
            "steps_per_print": 10**9,
        },
        dist_init_required=False,
    )
    return engine


def train_step(engine: deepspeed.DeepSpeedEngine, world: World) -> None:
    patches = torch.randint(256, (BATCH_PER_RANK, NUM_KEPT, 16 * 16 * 3), dtype=torch.uint8, device=world.device)
    ids = torch.rand(BATCH_PER_RANK, NUM_PATCHES, device=world.device).argsort(1)[:, :NUM_KEPT].sort(1)[0].int()
    loss = engine(patches, ids).logsumexp(1).mean()
    engine.backward(loss)
    engine.step()


def seconds(work: Callable[[], object], world: World) -> float:
    """Wall time of ``work`` on the slowest rank."""
    dist.barrier()
    start = time.perf_counter()
    work()
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter() - start


def measure(world: World, zero_stage: int, folder: Path, repeats: int, steps: int) -> dict[str, Any]:
    engine = build_engine(world, zero_stage)
    by_deepspeed = engine.checkpoint_engine
    record = Record()
    ours = Checkpoints(
        engine,
        folder / "ours",
        world,
        facts={},
        metrics=record,  # type: ignore[arg-type]
        keep_last=1,
    )
    in_background = engine.checkpoint_engine

    def train() -> None:
        for _ in range(steps):
            train_step(engine, world)

    def train_and_finish() -> None:
        train()
        ours.finish()

    train()
    rounds = []
    for number in range(repeats):
        idle_s = seconds(train, world)
        engine.checkpoint_engine = by_deepspeed
        plain_s = seconds(lambda: engine.save_checkpoint(str(folder / "plain"), tag="plain", save_latest=False), world)
        engine.checkpoint_engine = in_background
        between_s = seconds(train, world)
        stall_s = seconds(partial(ours.save, number + 1), world)
        busy_s = seconds(train_and_finish, world)
        rounds.append(
            {
                "steps_idle_s": [idle_s, between_s],
                "deepspeed_save_s": plain_s,
                "stall_s": stall_s,
                "steps_while_writing_and_rest_s": busy_s,
                "cost_s": stall_s + busy_s - statistics.mean([idle_s, between_s]),
            }
        )
    for values, line in zip(rounds, record.lines, strict=True):
        values |= {"until_it_counts_s": line["total_s"], "num_bytes": line["num_bytes"]}
    return {"zero_stage": zero_stage, "steps_per_interval": steps, "rounds": rounds}


def hardware(world: World) -> dict[str, Any]:
    return {
        "cpu": processor(Path("/proc/cpuinfo").read_text()) or "unknown",
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if world.device.type == "cuda" else None,
        "system": platform.platform(),
        "load_average_before": os.getloadavg(),
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoints go; default: the temporary folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="training steps in each interval")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    world = join_world()
    torch.set_num_threads(world.cores)
    result = {
        "model": MODEL,
        "ranks": world.size,
        "batch_per_rank": BATCH_PER_RANK,
        "num_kept": NUM_KEPT,
        "hardware": hardware(world),
    }
    names = [tempfile.mkdtemp(dir=arguments.folder, prefix="checkpoint-stall-") if world.is_first else ""]
    dist.broadcast_object_list(names, src=0)
    folder = Path(names[0])
    try:
        runs = [measure(world, stage, folder / f"zero{stage}", arguments.repeats, arguments.steps) for stage in (0, 1)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result |= {"load_average_after": os.getloadavg(), "runs": runs}
    if world.is_first:
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        for run in runs:
            size = run["rounds"][0]["num_bytes"]
            print(f"ZeRO {run['zero_stage']}, {size / 1e6:.0f} MB, medians of {arguments.repeats}:")
            for key in ("deepspeed_save_s", "stall_s", "cost_s", "until_it_counts_s"):
                values = [values[key] for values in run["rounds"]]
                print(f"  {key:18} {statistics.median(values):6.3f} s  ({min(values):.3f} to {max(values):.3f})")
    leave_world()


main()
