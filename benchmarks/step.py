"""The training step of a ViT-Ti/16 at 224 per number of patches kept, beside other ways to drop patches.

    python -m benchmarks.step

Forward, backward and an AdamW step in plain torch, the same loop for all, with the inputs resident: uint8, as loaders
hand them over. Each normalises them within the step, timm's ways as timm's prefetcher does.

    ours              the patches that are kept, and their places
    timm              timm's own model on images, with all patches
    patch_drop_rate   timm's own model with its random patch dropout behind the embedding
    naflex            timm's NaFlexVit on the patches that are kept, with coordinates and validity mask
    paper             timm's own model; embeds all patches, keeps those of the largest L1 norm (arXiv 2208.09520)

The ways take turns in one process, several times over; a ratio is within a round. About six minutes on two cores.
Writes benchmarks/results/step.json.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
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
from engine.models.build import build_model
from engine.models.patch_embed import normalize_patches
from engine.optim import build_optimizer
from pipeline.plan.schedule import num_kept_at

MODEL, IMAGE_SIZE, PATCH_SIZE, NUM_CLASSES = "vit_tiny_patch16_224", 224, 16, 1000
GRID = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES = GRID**2
KEEP_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Step = Callable[[], None]


def training_step(model: nn.Module, logits: Callable[[], Tensor], labels: Tensor) -> Step:
    """One step of the loop that all ways share."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "lr_scale": 1.0, "weight_decay": 0.05}]
    optimizer = build_optimizer(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8)

    def step() -> None:
        F.cross_entropy(logits().float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm_model(**options: Any) -> VisionTransformer:
    model = timm.create_model(MODEL, num_classes=NUM_CLASSES, **options)
    return cast(VisionTransformer, model.train())


def normalized(images: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] as timm's PrefetchLoader hands them to the model: float32."""
    mean, std = (255 * torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return images.float().sub_(mean).div_(std)


def ours(patches: Tensor, ids_keep: Tensor, labels: Tensor) -> Step:
    model = build_model(
        MODEL, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, num_classes=NUM_CLASSES, mean=MEAN, std=STD
    ).train()
    return training_step(model, lambda: model(patches, ids_keep), labels)


def timm_full(images: Tensor, labels: Tensor) -> Step:
    model = timm_model()
    return training_step(model, lambda: model(normalized(images)), labels)


def patch_drop_rate(images: Tensor, labels: Tensor, num_kept: int) -> Step:
    # timm keeps int(N * (1 - rate)) patches, and at a rate of 0 it has no dropout.
    rate = 0.0 if num_kept == NUM_PATCHES else 1 - (num_kept + 0.5) / NUM_PATCHES
    model = timm_model(patch_drop_rate=rate)
    return training_step(model, lambda: model(normalized(images)), labels)


def naflex(patches: Tensor, ids_keep: Tensor, labels: Tensor) -> Step:
    width, depth, heads = 192, 12, 3
    model = NaFlexVit(
        NaFlexVitCfg(
            patch_size=PATCH_SIZE,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            class_token=True,
            pos_embed_grid_size=(GRID, GRID),
            global_pool="token",
        ),
        num_classes=NUM_CLASSES,
    ).train()
    places = {
        "patch_coord": torch.stack([ids_keep // GRID, ids_keep % GRID], dim=-1).long(),
        "patch_valid": torch.ones(ids_keep.shape, dtype=torch.bool),
    }
    return training_step(model, lambda: model({"patches": normalize_patches(patches, MEAN, STD), **places}), labels)


def paper(images: Tensor, labels: Tensor, num_kept: int) -> Step:
    model = timm_model()

    def logits() -> Tensor:
        tokens = model.norm_pre(model.pos_drop(model._pos_embed(model.patch_embed(normalized(images)))))
        prefix, patches = tokens[:, :1], tokens[:, 1:]
        best = patches.detach().abs().sum(dim=2).topk(num_kept, dim=1).indices
        kept = patches.gather(1, best[:, :, None].expand(-1, -1, patches.shape[2]))
        return model.forward_head(model.norm(model.blocks(torch.cat([prefix, kept], dim=1))))

    return training_step(model, logits, labels)


def all_steps(batch_size: int, device: torch.device) -> dict[tuple[str, int], Step]:
    """Every way at every number of patches kept."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, NUM_PATCHES, PATCH_SIZE**2 * 3), dtype=torch.uint8, device=device)
    images = (
        pixels.view(batch_size, GRID, GRID, PATCH_SIZE, PATCH_SIZE, 3)
        .permute(0, 5, 1, 3, 2, 4)
        .reshape(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    )
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    steps: dict[tuple[str, int], Step] = {("timm", NUM_PATCHES): timm_full(images, labels)}
    with torch.device(device):
        for rate in KEEP_RATES:
            num_kept = num_kept_at(rate, NUM_PATCHES)
            drawn = torch.rand(batch_size, NUM_PATCHES).argsort(dim=1)[:, :num_kept]
            ids = drawn.sort(dim=1).values.int()
            kept = torch.stack([image[rows.long()] for image, rows in zip(pixels, ids, strict=True)])
            steps["ours", num_kept] = ours(kept, ids, labels)
            steps["patch_drop_rate", num_kept] = patch_drop_rate(images, labels, num_kept)
            steps["naflex", num_kept] = naflex(kept, ids, labels)
            steps["paper", num_kept] = paper(images, labels, num_kept)
    return steps


def measure(
    steps: dict[tuple[str, int], Step], repeats: int, device: torch.device
) -> dict[tuple[str, int], list[float]]:
    """Seconds of each step in each round, after one round to warm up."""
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for number in tqdm(range(repeats + 1), unit="round", disable=not sys.stderr.isatty()):
        # Another order in every round, so that no way always comes behind the same other one.
        keys = list(steps)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            start = time.perf_counter()
            steps[key]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[key].append(time.perf_counter() - start)
    return times


def summarize(times: dict[tuple[str, int], list[float]]) -> list[dict[str, Any]]:
    full = times["timm", NUM_PATCHES]
    rows = []
    for (way, num_kept), seconds in times.items():
        row: dict[str, Any] = {"way": way, "num_kept": num_kept, "step_s": spread(seconds)}
        row["speed_over_timm"] = spread([a / b for a, b in zip(full, seconds, strict=True)])
        if way != "ours" and ("ours", num_kept) in times:
            own = times["ours", num_kept]
            row["speed_of_ours_over_this"] = spread([a / b for a, b in zip(seconds, own, strict=True)])
        rows.append(row)
    return sorted(rows, key=lambda row: (row["num_kept"], row["way"]))


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="of each step (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="cores, and threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "step.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    torch.set_num_threads(options.cores)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = summarize(measure(all_steps(options.batch_size, device), options.repeats, device))
    print(describe(rows))
    facts = {"model": MODEL, "precision": "fp32", "batch_size": options.batch_size, "repeats": options.repeats}
    write_result(options.out, "benchmarks.step", argv, {**facts, "steps": rows}, load_before)


def describe(rows: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    lines = [f"{'kept':>4} {'way':16} {'ms':>8} {'(min to max)':>17} {'x timm':>7} {'ours is':>8}"]
    for row in rows:
        step, versus = row["step_s"], row.get("speed_of_ours_over_this")
        extremes = f"({1000 * step['min']:.0f} to {1000 * step['max']:.0f})"
        lines.append(
            f"{row['num_kept']:4} {row['way']:16} {1000 * step['median']:8.1f} {extremes:>17} "
            f"{row['speed_over_timm']['median']:6.2f}x" + (f" {versus['median']:7.2f}x" if versus else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
