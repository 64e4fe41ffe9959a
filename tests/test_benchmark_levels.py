"""The benchmark of levels at a tiny size: both ways load the same plans, and its page says what was found."""

import json
from pathlib import Path

import pytest

from benchmarks.levels.__main__ import main
from benchmarks.performance import levels_section
from benchmarks.photographs import photographs
from pipeline.shards.index import open_index
from tools.shards.convert import Settings, convert


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    convert(photographs(16, 4), "photographs:16", folder, Settings(shard_samples=8))
    return folder


def test_levels_are_made_beside_links_and_measured_against_the_full_size(shards: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in shards.iterdir())
    arguments = ["--data", shards, "--work", tmp_path / "work", "--out", tmp_path / "found.json", "--levels", 128, 64]
    sizes = ["--image-sizes", 32, 224, "--keep-rates", 0.5, "--repeats", 1, "--seconds", 0.01, "--batches", 2]
    main([str(one) for one in [*arguments, *sizes, "--batch-size", 8, "--cores", 1]])
    assert sorted(path.name for path in shards.iterdir()) == before
    found = json.loads((tmp_path / "found.json").read_text())
    assert [line["image_size"] for line in found["rates"]] == [32, 224]
    small, large = found["pixels"]
    assert small["num_images"] == 16
    assert small["share_at"]["level 64"] + small["share_at"]["level 128"] > 0.5
    assert 0 < small["mean_distance"] < 6
    assert small["bytes_read_per_image"] < small["bytes_read_per_image_full_size"]
    assert large["share_at"]["full size"] == 1
    assert large["mean_distance"] == 0
    assert large["bytes_read_per_image"] == pytest.approx(open_index(shards, "train").length.mean(), rel=0.5)
    hardware = {"cpu": "A", "cores": 2, "memory_gib": 4, "torch": "2", "timm": "1", "nvidia-dali-cuda130": "2"}
    page = levels_section(found | {"hardware": hardware})
    assert "| 32 | 0.5 |" in page
    assert "full size 100%" in page
