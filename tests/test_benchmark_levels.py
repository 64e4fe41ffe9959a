"""The benchmark of levels at a tiny size: both ways load the same plans, and its page says what was found."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.levels.__main__ import main
from benchmarks.levels.page import levels_section, levels_table_section
from benchmarks.levels.table import starts
from benchmarks.photographs import photographs
from pipeline.shards.index import open_index
from tools.shards.convert import Settings, convert

HARDWARE = {"cpu": "A", "cores": 2, "memory_gib": 4, "torch": "2", "timm": "1", "nvidia-dali-cuda130": "2"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    convert(photographs(16, 4), "photographs:16", folder, Settings(shard_samples=8))
    return folder


def test_a_tenth_of_the_tables_computation_holds_as_many_images_as_it_can_compute() -> None:
    shares = [share for share, _ in starts()]
    assert [size for _, size in starts()] == [96, 160, 192, 224]
    images = [end - begin for begin, end in pairwise([*shares, 1.0])]
    work = [count * size**2 for count, (_, size) in zip(images, starts(), strict=True)]
    assert [one / sum(work) for one in work] == pytest.approx([0.2, 0.4, 0.2, 0.2])
    assert shares == pytest.approx([0, 0.464, 0.799, 0.915], abs=1e-3)


def test_a_run_through_the_tables_sizes_is_loaded_both_ways(shards: Path, tmp_path: Path) -> None:
    arguments = ["--data", shards, "--work", tmp_path / "work", "--out", tmp_path / "found.json", "--levels", 128]
    more = ["--table", "--images", 100, "--batch-size", 4, "--repeats", 1, "--cores", 1]
    main([str(one) for one in [*arguments, *more]])
    found = json.loads((tmp_path / "found.json").read_text())
    table = found["table"]
    assert (table["num_images"], [way["way"] for way in table["ways"]]) == (100, ["levels", "full size"])
    for way in table["ways"]:
        assert [one["image_size"] for one in way["by_size"]] == [96, 160, 192, 224]
        assert way["images_per_s"]["median"] == pytest.approx(100 / way["seconds"]["median"])
    seconds = [way["seconds"]["median"] for way in table["ways"]]
    assert table["ratio"]["median"] == pytest.approx(seconds[1] / seconds[0])
    page = levels_table_section(found | {"hardware": HARDWARE})
    assert "over a run of 100 images of 16 photographs" in page
    assert "[[0.000, 96], [0.464, 160], [0.799, 192], [0.915, 224]]" in page


def test_levels_are_made_beside_links_and_measured_against_the_full_size(shards: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in shards.iterdir())
    arguments = ["--data", shards, "--work", tmp_path / "work", "--out", tmp_path / "found.json", "--levels", 128, 64]
    sizes = ["--image-sizes", 32, 224, "--keep-rates", 0.5, "--repeats", 1, "--seconds", 0.1, "--batches", 2]
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
    page = levels_section(found | {"hardware": HARDWARE})
    assert "| 32 | 0.5 |" in page
    assert "full size 100%" in page
