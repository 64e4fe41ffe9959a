"""Decoded images that outlive an epoch, and on disk the run."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.bad_images import HEIGHT, WIDTH, write_photo_shards
from pipeline.config import CacheConfig
from pipeline.graph.pixel_cache import DiskCache, PixelCache, open_cache
from pipeline.shards.index import ShardIndex

IMAGE_BYTES = HEIGHT * WIDTH * 3
LARGE = 100 * IMAGE_BYTES


def pixels(sample_id: int) -> np.ndarray:
    return np.random.default_rng(sample_id).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_photo_shards(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def on_disk(index: ShardIndex, tmp_path: Path) -> Callable[..., DiskCache]:
    def opened(max_bytes: int = LARGE, *, of: ShardIndex = index, rank: int = 0, decoder: str = "a 1") -> DiskCache:
        return DiskCache(tmp_path / "cache", of, rank, max_bytes, decoder)

    return opened


@pytest.fixture(params=["memory", "disk"])
def sized(request: pytest.FixtureRequest, index: ShardIndex, tmp_path: Path) -> Callable[[int], PixelCache]:
    def opened(max_bytes: int) -> PixelCache:
        folder = tmp_path / "cache" if request.param == "disk" else None
        config = CacheConfig(kind=request.param, folder=folder, max_bytes=max_bytes)
        cache = open_cache(config, index, 0, "a 1")
        assert cache is not None
        return cache

    return opened


def test_no_cache_is_opened_where_none_is_asked_for(index: ShardIndex) -> None:
    assert open_cache(None, index, 0, "a 1") is None


def test_images_come_back_as_they_were(sized: Callable[[int], PixelCache]) -> None:
    cache = sized(LARGE)
    assert cache.get(3) is None
    for sample_id in (3, 0, 47):
        assert cache.put(sample_id, pixels(sample_id))
    for sample_id in (47, 3, 0):
        found = cache.get(sample_id)
        assert found is not None
        np.testing.assert_array_equal(found, pixels(sample_id))
    assert cache.get(1) is None
    cache.close()


def test_a_full_cache_keeps_what_it_has_and_takes_no_more(sized: Callable[[int], PixelCache]) -> None:
    cache = sized(2 * IMAGE_BYTES)
    assert [cache.put(i, pixels(i)) for i in (5, 6, 7)] == [True, True, False]
    assert cache.put(5, pixels(5)), "it is there"
    assert cache.get(7) is None
    np.testing.assert_array_equal(cache.get(6), pixels(6))
    cache.close()


def test_the_next_run_goes_on_with_the_file(on_disk: Callable[..., DiskCache]) -> None:
    first = on_disk(3 * IMAGE_BYTES)
    first.put(3, pixels(3))
    first.close()
    first.close()
    second = on_disk(3 * IMAGE_BYTES)
    np.testing.assert_array_equal(second.get(3), pixels(3))
    assert [second.put(i, pixels(i)) for i in (4, 5, 6)] == [True, True, False]
    second.close()


def test_a_run_that_was_killed_leaves_what_it_had_written(on_disk: Callable[..., DiskCache]) -> None:
    killed = on_disk()
    killed.put(3, pixels(3))
    killed._close_files()  # as the kernel does
    np.testing.assert_array_equal(on_disk().get(3), pixels(3))


def test_after_a_power_failure_nothing_is_believed(on_disk: Callable[..., DiskCache], tmp_path: Path) -> None:
    lost = on_disk()
    lost.put(3, pixels(3))
    lost._close_files()
    path = tmp_path / "cache/train-rank0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "an earlier one"}))
    assert on_disk().get(3) is None


@pytest.mark.parametrize("what", ["data", "decoder", "facts", "offsets"])
def test_a_file_of_other_making_is_begun_anew(on_disk: Callable[..., DiskCache], tmp_path: Path, what: str) -> None:
    first = on_disk()
    first.put(3, pixels(3))
    first.close()
    if what == "facts":
        (tmp_path / "cache/train-rank0.json").write_text("{")
    if what == "offsets":
        os.truncate(tmp_path / "cache/train-rank0.offsets", 20)
    other = write_photo_shards(tmp_path / "other", num_samples=30) if what == "data" else None
    second = on_disk(decoder="a 2" if what == "decoder" else "a 1", **({"of": other} if other else {}))
    assert second.get(3) is None
    assert second.put(3, pixels(3))
    assert os.path.getsize(tmp_path / "cache/train-rank0.pixels") == IMAGE_BYTES
    second.close()


def test_two_runs_do_not_share_a_file_and_ranks_have_their_own(on_disk: Callable[..., DiskCache]) -> None:
    first, other_rank = on_disk(), on_disk(rank=1)
    with pytest.raises(ValueError, match=r"train-rank0\.pixels is in use by another run; give each run its own"):
        on_disk()
    first.close()
    other_rank.close()
    on_disk().close()


def test_what_was_cut_off_is_no_longer_there(on_disk: Callable[..., DiskCache], tmp_path: Path) -> None:
    cache = on_disk()
    for i in (3, 4):
        cache.put(i, pixels(i))
    os.truncate(tmp_path / "cache/train-rank0.pixels", IMAGE_BYTES + 5)
    np.testing.assert_array_equal(cache.get(3), pixels(3))
    assert cache.get(4) is None
    assert not cache.put(5, pixels(5))
    cache.close()
    cache = on_disk()
    assert cache.put(5, pixels(5))
    assert cache.get(4) is None
    np.testing.assert_array_equal(cache.get(5), pixels(5))
    cache.close()


def test_a_full_disk_makes_a_full_cache(on_disk: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = on_disk()
    assert cache.put(3, pixels(3))

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_space)
        assert not cache.put(4, pixels(4))
    assert not cache.put(5, pixels(5))
    np.testing.assert_array_equal(cache.get(3), pixels(3))
    cache.close()


@pytest.mark.parametrize("what", ["pixels", "offsets"])
def test_an_image_that_changed_on_the_disk_is_not_given_out_and_a_line_says_so(
    on_disk: Callable[..., DiskCache], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    first = on_disk()
    assert first.put(3, pixels(3))
    assert first.put(4, pixels(4))
    first.close()
    path = tmp_path / f"cache/train-rank0.{what}"
    content = bytearray(path.read_bytes())
    content[100 if what == "pixels" else 16 * 3 + 8] ^= 1  # a pixel of the first image, or its checksum
    path.write_bytes(bytes(content))
    again = on_disk()
    assert again.get(3) is None
    np.testing.assert_array_equal(again.get(4), pixels(4))
    assert "train-rank0.pixels: some cached images are not as they were written (first 3)" in capsys.readouterr().err
    assert again.put(3, pixels(3)), "decoded again"
    np.testing.assert_array_equal(again.get(3), pixels(3))
    again.close()
