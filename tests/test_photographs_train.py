"""From a folder of photographs, some of them broken, to a trained model at 224 pixels: the way a newcomer goes."""

import json
from pathlib import Path

import yaml
from launching import python_module

from benchmarks.shared.photographs import jpeg_bytes

NUM_GOOD = 240
BROKEN = {
    "empty.jpg": b"",
    "garbage.jpg": bytes(range(256)) * 20,
    "truncated.jpg": jpeg_bytes(1)[:20_000],
    "text.jpg": b"this is no image",
    "headless.jpg": jpeg_bytes(2)[200:],
}


def write_photographs(folder: Path) -> None:
    for number in range(NUM_GOOD):
        path = folder / ("cat" if number % 2 else "dog") / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(number, width=300 + number % 60, height=260))
    for name, content in BROKEN.items():
        (folder / "cat" / name).write_bytes(content)


def test_a_folder_with_broken_photographs_converts_with_rejects_named_and_trains_at_224(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos")
    convert = [
        "tools.shards",
        "convert",
        "--source",
        f"imagefolder:{tmp_path / 'photos'}",
        "--out",
        tmp_path / "shards",
    ]
    convert += ["--val-fraction", "0.2"]
    refused = python_module(*convert)
    assert refused.returncode == 1, refused.stderr
    accepted = python_module(*convert, "--max-rejected", "5")
    assert accepted.returncode == 0, accepted.stderr
    rejected = [json.loads(line) for line in (tmp_path / "shards" / "rejected.jsonl").read_text().splitlines()]
    assert sorted(Path(entry["source"]).name for entry in rejected) == sorted(BROKEN)
    assert all(entry["reason"] for entry in rejected)

    config = {
        "data": {"train": str(tmp_path / "shards"), "val": str(tmp_path / "shards"), "num_classes": 2},
        "schedule": {"kind": "cyclic", "keep_rate": [0.2, 1.0]},
        "model": {"name": "vit_tiny_patch16_224", "options": {"depth": 1}},
        "train": {"duration": "1epochs", "global_batch_size": 16},
        "optim": {"lr": 0.001},
        "eval": {"keep_rates": [0.2, 1.0], "micro_batch_size": 8},
        "log_every": 1,
    }
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump(config))
    trained = python_module("engine.train", "--config", tmp_path / "photos.yaml", "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    dataset = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    assert sum(split["num_samples"] for split in dataset["splits"].values()) == NUM_GOOD
    assert summary["steps"] == dataset["splits"]["train"]["num_samples"] // 16
    lowest = min(summary["stages"], key=lambda stage: stage["keep_rate"])
    assert lowest["keep_rate"] == 0.2  # a cycle of at least ten steps goes down to it
    assert lowest["bytes_per_image"] <= 30_000  # the whole image as float32 would be 602,112
