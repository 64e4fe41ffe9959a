"""A data set that a tiny ViT can learn in a few steps: 16 x 16 noisy images, whose colour is the label."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform, resolve_data_config

from benchmarks.shared.shard_files import write_tar
from pipeline.shards.index import build_index

IMAGE_SIZE, PATCH_SIZE, NUM_CLASSES = 16, 4, 4
NUM_TRAIN, NUM_VAL = 200, 50
_COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))


def toy_image(number: int) -> tuple[np.ndarray, int]:
    """Image ``number`` and its label: uint8 [16, 16, 3]."""
    random = np.random.default_rng(number)
    label = int(random.integers(NUM_CLASSES))
    pixels = random.integers(0, 100, (IMAGE_SIZE, IMAGE_SIZE, 3)) + 100 * np.array(_COLOURS[label])
    return pixels.astype(np.uint8), label


def write_toy_shards(folder: Path, shard_samples: int = 70) -> Path:
    """Training and validation shards with their indexes, in one folder."""
    for split, first, count in (("train", 0, NUM_TRAIN), ("val", 10_000, NUM_VAL)):
        tars = []
        for shard, start in enumerate(range(first, first + count, shard_samples)):
            members = []
            for number in range(start, min(start + shard_samples, first + count)):
                pixels, label = toy_image(number)
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                members += [(f"{number:05d}.png", png.getvalue()), (f"{number:05d}.cls", str(label).encode())]
            tars.append(write_tar(folder / f"{split}-{shard:06d}.tar", members))
        build_index(folder, split, tars)
    return folder


def top1_of_plain_timm(export: Path) -> float:
    """The share of the validation images that timm's own transform and model, by the export, classify correctly."""
    model = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    images, labels = zip(*(toy_image(10_000 + i) for i in range(NUM_VAL)), strict=True)
    with torch.no_grad():
        predicted = model(torch.stack([transform(Image.fromarray(image)) for image in images])).argmax(1)
    return (predicted == torch.tensor(labels)).float().mean().item()


def write_toy_config(path: Path, shards: Path) -> Path:
    """A run of 24 steps over the toy shards, every keep rate of the paper, on any number of ranks up to 4."""
    config: dict[str, Any] = {
        "name": "toy",
        "data": {
            "train": str(shards),
            "val": str(shards),
            "num_classes": NUM_CLASSES,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "augment": {"crop": "pad", "pad_pixels": 1, "flip_probability": 0.0},
            "val_crop_fraction": 1.0,
            "num_threads": 1,
        },
        "schedule": {"kind": "linear", "keep_rate": [0.2, 1.0]},
        "model": {
            "name": "vit_tiny_patch16_224",
            "options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
        },
        "train": {"duration": "24steps", "global_batch_size": 16},
        "optim": {"lr": 0.005, "warmup": "4steps"},
        "engine": {"num_threads": 1},
        "eval": {"keep_rates": [1.0, 0.4], "micro_batch_size": 16},
        "log_every": 1,
    }
    path.write_text(yaml.safe_dump(config))
    return path
