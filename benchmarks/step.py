"""The training step of a ViT at 224 per number of patches kept, beside other ways to drop patches.

    python -m benchmarks.step

Forward, backward and a fused AdamW step in plain torch, the same loop for all, with the inputs resident: uint8, as
loaders hand them over. Each way normalises them within the step, with constants that are there; timm's ways as timm's
prefetcher does. Under --precision bf16 the weights stay float32 and all ways run under torch's autocast to bfloat16.

    ours              the patches that are kept, and their places
    timm              timm's own model on images, with all patches
    patch_drop_rate   timm's own model with its random patch dropout behind the embedding
    naflex            timm's NaFlexVit on the patches that are kept, with coordinates and validity mask
    paper             timm's own model; embeds all patches, keeps those of the largest L1 norm (arXiv 2208.09520)

The ways take turns in one process, several times over; a ratio is within a round. On a GPU events take the times of
--steps steps in a row, between which the host waits for nothing. About six minutes on two cores. Writes
benchmarks/results/step.json.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.measuring import RESULTS, keep_to_cores, spread, write_result
from engine.compiled import compile_blocks
from engine.models.build import build_model
from engine.models.patch_embed import normalize_patches
from engine.optim import build_optimizer
from engine.timing.laps import Laps
from pipeline.plan.schedule import num_kept_at

MODEL, IMAGE_SIZE, PATCH_SIZE, NUM_CLASSES = "vit_tiny_patch16_224", 224, 16, 1000
GRID = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES = GRID**2
KEEP_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Step = Callable[[], None]
Key = tuple[str, int]  # a way, and how many patches it keeps


@dataclass(frozen=True)
class Inputs:
    """What lies on the device before a step.

    Attributes:
        images: uint8 [B, 3, S, S].
        patches, ids: of each image those that are kept, uint8 [B, K, P*P*3] at int32 [B, K].
        labels: int64 [B].
    """

    images: Tensor
    patches: Tensor
    ids: Tensor
    labels: Tensor

    @property
    def num_kept(self) -> int:
        return self.ids.shape[1]


@dataclass(frozen=True)
class Way:
    """A model on its device, and how it gets logits [B, classes] from the inputs."""

    model: nn.Module
    logits: Callable[[Inputs], Tensor]


def timm_model(name: str, device: torch.device, **options: Any) -> VisionTransformer:
    with device:
        model = timm.create_model(name, num_classes=NUM_CLASSES, **options)
    return cast(VisionTransformer, model.train())


def normalizer(device: torch.device) -> Callable[[Tensor], Tensor]:
    """uint8 [B, 3, S, S] as timm's PrefetchLoader hands them to the model: float32."""
    mean, std = (255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return lambda images: images.float().sub_(mean).div_(std)


def ours(name: str, device: torch.device) -> Way:
    with device:
        model = build_model(
            name, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, num_classes=NUM_CLASSES, mean=MEAN, std=STD
        ).train()
    return Way(model, lambda inputs: model(inputs.patches, inputs.ids))


def timm_full(name: str, device: torch.device) -> Way:
    model, normalized = timm_model(name, device), normalizer(device)
    return Way(model, lambda inputs: model(normalized(inputs.images)))


def patch_drop_rate(name: str, device: torch.device) -> Way:
    model, normalized = timm_model(name, device, patch_drop_rate=0.5), normalizer(device)
    dropout: Any = model.patch_drop

    def logits(inputs: Inputs) -> Tensor:
        # timm keeps int(N * (1 - rate)) patches, and at a rate of 0 it drops none.
        dropout.prob = 0.0 if inputs.num_kept == NUM_PATCHES else 1 - (inputs.num_kept + 0.5) / NUM_PATCHES
        return model(normalized(inputs.images))

    return Way(model, logits)


def naflex(name: str, device: torch.device) -> Way:
    like = timm_model(name, torch.device("meta"))
    config = NaFlexVitCfg(
        patch_size=PATCH_SIZE,
        embed_dim=like.embed_dim,
        depth=len(like.blocks),
        num_heads=cast(Any, like.blocks[0]).attn.num_heads,
        class_token=True,
        pos_embed_grid_size=(GRID, GRID),
        global_pool="token",
    )
    with device:
        model = NaFlexVit(config, num_classes=NUM_CLASSES).train()
    places: dict[int, dict[str, Tensor]] = {}

    def logits(inputs: Inputs) -> Tensor:
        if inputs.num_kept not in places:  # made once, as a loader hands them over
            coordinates = torch.stack([inputs.ids // GRID, inputs.ids % GRID], dim=-1).long()
            valid = torch.ones_like(inputs.ids, dtype=torch.bool)
            places[inputs.num_kept] = {"patch_coord": coordinates, "patch_valid": valid}
        return model({"patches": normalize_patches(inputs.patches, MEAN, STD), **places[inputs.num_kept]})

    return Way(model, logits)


def paper(name: str, device: torch.device) -> Way:
    model, normalized = timm_model(name, device), normalizer(device)

    def logits(inputs: Inputs) -> Tensor:
        images = normalized(inputs.images)
        tokens = model.norm_pre(model.pos_drop(model._pos_embed(model.patch_embed(images))))
        prefix, patches = tokens[:, :1], tokens[:, 1:]
        best = patches.detach().abs().sum(dim=2).topk(inputs.num_kept, dim=1).indices
        kept = patches.gather(1, best[:, :, None].expand(-1, -1, patches.shape[2]))
        return model.forward_head(model.norm(model.blocks(torch.cat([prefix, kept], dim=1))))

    return Way(model, logits)


# In the order of a round. What all are compared with takes part at full patches alone.
WAYS = {"timm": timm_full, "ours": ours, "patch_drop_rate": patch_drop_rate, "naflex": naflex, "paper": paper}
BASE = "timm"


def training_step(way: Way, *, in_bf16: bool) -> Callable[[Inputs], None]:
    """One step of the loop that all ways share."""
    parameters = [p for p in way.model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "lr_scale": 1.0, "weight_decay": 0.05}]
    optimizer = build_optimizer(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8)

    def step(inputs: Inputs) -> None:
        with torch.autocast(inputs.images.device.type, torch.bfloat16, enabled=in_bf16):
            logits = way.logits(inputs)
        F.cross_entropy(logits.float(), inputs.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def draw_inputs(batch_size: int, keep_rates: Iterable[float], device: torch.device) -> dict[int, Inputs]:
    """The same images for all, and at each number of patches kept one choice of them."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, NUM_PATCHES, PATCH_SIZE**2 * 3), dtype=torch.uint8, device=device)
    images = (
        pixels.view(batch_size, GRID, GRID, PATCH_SIZE, PATCH_SIZE, 3)
        .permute(0, 5, 1, 3, 2, 4)
        .reshape(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    )
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    found = {}
    for num_kept in sorted({NUM_PATCHES, *(num_kept_at(rate, NUM_PATCHES) for rate in keep_rates)}):
        drawn = torch.rand(batch_size, NUM_PATCHES, device=device).argsort(dim=1)[:, :num_kept]
        ids = drawn.sort(dim=1).values
        patches = pixels.gather(1, ids[:, :, None].expand(-1, -1, pixels.shape[2]))
        found[num_kept] = Inputs(images, patches, ids.int(), labels)
    return found


def all_steps(options: argparse.Namespace, device: torch.device) -> dict[Key, Step]:
    """Every way at every number of patches kept; a way has one model for all of them."""
    inputs = draw_inputs(options.batch_size, options.keep_rates, device)
    numbers = [num_kept_at(rate, NUM_PATCHES) for rate in options.keep_rates]
    steps: dict[Key, Step] = {}
    for name, make in WAYS.items():
        if name not in (BASE, *options.ways):
            continue
        way = make(options.model, device)
        if options.compile:
            compile_blocks(cast(Any, way.model))
        step = training_step(way, in_bf16=options.precision == "bf16")
        for num_kept in [NUM_PATCHES] if name == BASE else numbers:
            steps[name, num_kept] = partial(step, inputs[num_kept])
    return steps


def measure(steps: dict[Key, Step], repeats: int, in_a_row: int, device: torch.device) -> dict[Key, list[float]]:
    """Seconds of each step in each round, means over so many in a row; after one round to warm up."""
    times: dict[Key, list[float]] = {key: [] for key in steps}
    for number in tqdm(range(repeats + 1), unit="round", disable=not sys.stderr.isatty()):
        # Another order in every round, so that no way always comes behind the same other one.
        keys = list(steps)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            laps = Laps.on(device)
            for _ in range(in_a_row):
                steps[key]()
            laps.end("steps")
            taken_s = laps.seconds()["steps"]
            if number:
                times[key].append(taken_s / in_a_row)
    return times


def summarize(times: dict[Key, list[float]]) -> list[dict[str, Any]]:
    full = times[BASE, NUM_PATCHES]
    rows = []
    for (way, num_kept), seconds in times.items():
        row: dict[str, Any] = {"way": way, "num_kept": num_kept, "step_s": spread(seconds)}
        row["speed_over_timm"] = spread([a / b for a, b in zip(full, seconds, strict=True)])
        if way != "ours" and ("ours", num_kept) in times:
            own = times["ours", num_kept]
            row["speed_of_ours_over_this"] = spread([a / b for a, b in zip(seconds, own, strict=True)])
        rows.append(row)
    return sorted(rows, key=lambda row: (row["num_kept"], row["way"]))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="benchmarks.step", description=(__doc__ or "").split("\n")[0])
    add = found.add_argument
    add("--model", default=MODEL, help="a ViT of timm's, patches of 16 at 224 (default: %(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    add("--batch-size", type=int, default=32, help="(default: %(default)s)")
    add("--keep-rates", type=float, nargs="+", default=KEEP_RATES, help="(default: 0.2 0.4 0.6 0.8 1)")
    add("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS), help=f"beside {BASE} (default: all)")
    add("--compile", action="store_true", help="blocks through torch.compile, of all ways")
    add("--repeats", type=int, default=9, help="of each measurement (default: %(default)s)")
    add("--steps", type=int, default=1, help="in a row, of which a measurement is the mean (default: %(default)s)")
    add("--cores", type=int, default=2, help="cores, and threads (default: %(default)s)")
    add("--out", type=Path, default=RESULTS / "step.json", help="(default: %(default)s)")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    torch.set_num_threads(options.cores)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as a run has it unless told otherwise
    print(
        f"{options.model}, {options.precision}, batches of {options.batch_size} on the {device.type}: "
        f"{options.repeats} x {options.steps} steps of each",
        flush=True,
    )
    rows = summarize(measure(all_steps(options, device), options.repeats, options.steps, device))
    print(describe(rows))
    facts = {name: getattr(options, name) for name in ("model", "precision", "compile", "batch_size", "repeats")}
    facts |= {"device": device.type, "steps_in_a_row": options.steps}
    write_result(options.out, "benchmarks.step", argv, {**facts, "steps": rows}, load_before)


def describe(rows: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    lines = [f"{'kept':>4} {'way':16} {'ms':>8} {'(min to max)':>19} {'x timm':>7} {'ours is':>8}"]
    for row in rows:
        step, versus = row["step_s"], row.get("speed_of_ours_over_this")
        extremes = f"({1000 * step['min']:.1f} to {1000 * step['max']:.1f})"
        lines.append(
            f"{row['num_kept']:4} {row['way']:16} {1000 * step['median']:8.1f} {extremes:>19} "
            f"{row['speed_over_timm']['median']:6.2f}x" + (f" {versus['median']:7.2f}x" if versus else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
