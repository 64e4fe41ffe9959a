"""Runs of one rank over small photographs, some of which are damaged."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.case import Bench
from benchmarks.shared.bad_images import HEIGHT, WIDTH, overwrite, write_photo_shards
from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from benchmarks.toy_runs import settings, wait_until
from engine.metrics import read_metrics
from pipeline.shards.index import ShardIndex, build_index, open_index
from tools.shards.units_files import write_units_files

NUM_TRAIN, NUM_VAL = 48, 16
BAD_ID = 17  # of the training set's samples, in the second of three shards
LATEST_S = 120.0


@dataclass(frozen=True)
class PhotoSet:
    """Training and validation shards, a configuration of 12 steps over them, and a run folder."""

    folder: Path
    config: Path
    out: Path

    @property
    def index(self) -> ShardIndex:
        return open_index(self.folder, "train")

    def argv(self, *more: str) -> list[str]:
        return ["--config", str(self.config), "--out", str(self.out), *more]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return read_metrics(self.out / "metrics.jsonl")

    @property
    def bad_samples(self) -> list[dict[str, Any]]:
        """What the run wrote about bad samples."""
        return read_metrics(self.out / "bad_samples.jsonl")

    @property
    def digest(self) -> str:
        path = self.out / "summary.json"
        return json.loads(path.read_text())["weights_digest"] if path.exists() else "none"

    def tar(self, number: int) -> Path:
        return self.folder / f"train-{number:06d}.tar"

    def damage(self, data: bytes, sample_id: int = BAD_ID) -> None:
        """Overwrite an image in its tar without a trace in the file's times, as failing storage does."""
        index = self.index
        tar = self.folder / index.shards[index.shard[sample_id]].name
        before = tar.stat()
        overwrite(index, sample_id, data)
        os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))

    def wait_for_step(self, step: int) -> None:
        """Until a run in the background has done some steps."""
        if not wait_until(lambda: sum(line["event"] == "train" for line in self.lines) > step, LATEST_S):
            raise TimeoutError(f"step {step} was not done within {LATEST_S:g} s")


def photo_set(bench: Bench, name: str, replaced: dict[int, bytes] | None = None) -> PhotoSet:
    """Fresh shards, with the given images in the place of some; addressable ones also with files of units."""
    out = bench.out(name)
    folder = out.with_name(f"{out.name}-data")
    shutil.rmtree(folder, ignore_errors=True)
    write_photo_shards(folder, replaced, NUM_TRAIN, addressable=bench.addressable)
    members = [
        member
        for i in range(NUM_VAL)
        for member in (
            (f"{i:05d}.jpg", jpeg_bytes(1000 + i, WIDTH, HEIGHT, addressable=bench.addressable)),
            (f"{i:05d}.cls", str(i).encode()),
        )
    ]
    build_index(folder, "val", [write_tar(folder / "val-000000.tar", members)])
    if bench.addressable:
        write_units_files([open_index(folder, split) for split in ("train", "val")])
    config = out.with_name(f"{out.name}.yaml")
    config.write_text(
        yaml.safe_dump(
            {
                "name": "photos",
                "data": {
                    "train": str(folder),
                    "val": str(folder),
                    "num_classes": NUM_TRAIN,
                    "image_size": 32,
                    "patch_size": 8,
                    # Crops that reach every part of an image, so that damage in any part of it is met.
                    "augment": {"scale": [1.0, 1.0], "ratio": [WIDTH / HEIGHT, WIDTH / HEIGHT]},
                    "num_threads": 1,
                },
                "schedule": {"kind": "constant", "keep_rate": 0.6},
                "model": {
                    "name": "vit_tiny_patch16_224",
                    "options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
                },
                "train": {"duration": "12steps", "global_batch_size": 8},
                "optim": {"lr": 0.001},
                "engine": {"num_threads": 1},
                "checkpoint": {"every": "3steps"},
                "log_every": 1,
            }
        )
    )
    return PhotoSet(folder, config, out)


def on_bad(mode: str, max_share: float = 0.05) -> list[str]:
    """``--set`` arguments: what to do about a bad sample."""
    return settings(data__on_bad_sample=mode, data__max_bad_share=max_share)
