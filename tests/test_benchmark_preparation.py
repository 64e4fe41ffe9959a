"""The benchmark of preparation at a tiny size: what it prepares has gaps, and its digests tell folders apart."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.preparation import __main__ as preparation
from benchmarks.preparation.held import digests
from tools.shards.convert import Settings, convert, convert_part
from tools.shards.parts.merge import merge
from tools.shards.parts.part import Part
from tools.shards.sources.table import open_source

NUM_IMAGES = 70


def pictures(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """In the place of Fashion-MNIST's."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (NUM_IMAGES, 28, 28), np.uint8), rng.integers(0, 10, NUM_IMAGES, np.uint8)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(preparation, "find_fashion_mnist", lambda folder, cache: cache)
    monkeypatch.setattr(preparation, "read_fashion_mnist", pictures)
    monkeypatch.setattr(preparation, "ROWS_OF_A_FILE", 30)
    monkeypatch.setattr(preparation, "ROWS_OF_A_GROUP", 8)
    monkeypatch.setattr(preparation, "BROKEN_EVERY", 20)
    preparation.write_source(tmp_path / "source", NUM_IMAGES, tmp_path)
    return tmp_path / "source"


def test_parts_and_one_process_have_the_same_digests_and_other_shards_have_not(source: Path, tmp_path: Path) -> None:
    images, chosen = open_source(f"parquet:{source}", tmp_path), Settings(shard_samples=9)
    convert(images, "x", tmp_path / "whole", chosen)
    for number in (3, 1, 2):
        convert_part(images, "x", tmp_path / "parts", chosen, Part(number, 3))
    merge(tmp_path / "parts")
    whole = digests(tmp_path / "whole")
    assert whole["num_samples"] == 67
    assert digests(tmp_path / "parts") == whole
    convert(images, "x", tmp_path / "other", Settings(shard_samples=9, seed=1))
    other = digests(tmp_path / "other")
    assert all(other[name] != whole[name] for name in ("tars", "rows", "fingerprints", "others"))
    shutil.copy(tmp_path / "other/dataset.json", tmp_path / "parts/dataset.json")
    changed = digests(tmp_path / "parts")
    assert {name for name in whole if changed[name] != whole[name]} == {"others"}


def test_what_is_missing_for_a_cluster_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "why_no_cluster", lambda: "no namespaces here")
    with pytest.raises(SystemExit, match="no cluster of two hosts can be made here: no namespaces here; leave it out"):
        preparation.main(["--work", str(tmp_path / "work")])
    assert not (tmp_path / "work").exists()
