"""A few updates of small models under DeepSpeed, each at another image and patch size, on any number of ranks.

    deepspeed --no_local_rank tests/engine/models/steps_at_sizes.py JOBS RESULTS

JOBS is a JSON object of a configuration and its overrides by name, {NAME: [CONFIG, OVERRIDE, ...]}; RESULTS gets the
losses of the global batch, a list by the same names.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from engine.config import load_config
from engine.deepspeed_engine import build_engine
from engine.evaluation.trained import build_run_model
from engine.losses import cross_entropy
from engine.ranks.world import World, join_world, leave_world
from engine.run_plan import plan_run
from engine.update import backward_pass, begin_pass, update_weights

# Image and patch size of each update; the toy run is configured for 16 and 4.
SIZES = ((16, 4), (8, 4), (24, 4), (16, 2), (16, 8), (8, 4), (16, 4))
NUM_KEPT = 3


def losses(words: list[str], world: World) -> list[float]:
    config = load_config(words[0], words[1:])
    torch.manual_seed(config.seed)
    plan = plan_run(config, 200, world.size)
    engine = build_engine(config, plan, build_run_model(config).to(world.device))
    found = []
    for step, (image_size, patch_size) in enumerate(SIZES):
        generator = torch.Generator().manual_seed(step)
        num_rows, num_patches = config.train.global_batch_size, (image_size // patch_size) ** 2
        patches = torch.randint(0, 256, (num_rows, NUM_KEPT, 3 * patch_size**2), dtype=torch.uint8, generator=generator)
        ids = torch.rand(num_rows, num_patches, generator=generator).argsort(1)[:, :NUM_KEPT].int()
        mine = slice(world.rank * plan.rows_per_rank, (world.rank + 1) * plan.rows_per_rank)
        begin_pass(engine, is_last=True)
        logits = engine(patches[mine], ids[mine], image_size=image_size, patch_size=patch_size)
        loss = cross_entropy(logits, torch.arange(num_rows)[mine] % config.data.num_classes).mean()
        backward_pass(engine, loss, 1)
        update_weights(engine, config, measure=False)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        found.append(mean.item() / world.size)
    return found


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world()
    found = {name: losses(words, world) for name, words in json.loads(jobs.read_text()).items()}
    if world.is_first:
        results.write_text(json.dumps(found))
    leave_world()


if __name__ == "__main__":
    main()
