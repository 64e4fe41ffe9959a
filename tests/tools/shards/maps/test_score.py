"""``tools.shards score``: every shard gets its maps once, whichever way the work is divided."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.shared.photographs import photograph
from benchmarks.shared.shard_files import write_tar
from pipeline.jpeg.addressable import units_of
from pipeline.selection.image_maps import bytes_map, contrast_map
from pipeline.selection.maps import ScoreMaps, map_path
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path
from pipeline.shards.index import ShardIndex, build_index, open_index
from pipeline.shards.units import units_path, write_units
from tools.shards.__main__ import main
from tools.shards.maps.score import MapJob, Scored, score_folder

SIZES = [(100, 61), (64, 64), (40, 90)]


def photo(number: int, *, addressable: bool = True) -> bytes:
    sink = io.BytesIO()
    markers = {"restart_marker_blocks": 1} if addressable else {}
    image = Image.fromarray(photograph(number, *SIZES[number % len(SIZES)]))
    image.save(sink, "JPEG", optimize=True, **markers)
    return sink.getvalue()


def members(numbers: range, images: dict[int, bytes]) -> list[tuple[str, bytes]]:
    found = [((f"{i:03d}.jpg", images.get(i) or photo(i)), (f"{i:03d}.cls", b"1")) for i in numbers]
    return [member for pair in found for member in pair]


def shards(folder: Path, images: dict[int, bytes] | None = None) -> ShardIndex:
    """Two shards of train, of 4 and 3 addressable photographs, and one of val; ``images`` stand for some of them."""
    made = images or {}
    train = [
        write_tar(folder / f"train-{n}.tar", members(numbers, made))
        for n, numbers in enumerate((range(4), range(4, 7)))
    ]
    build_index(folder, "val", [write_tar(folder / "val-0.tar", members(range(7, 9), made))])
    return build_index(folder, "train", train)


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def test_every_image_gets_the_map_of_its_kind(tmp_path: Path) -> None:
    index = shards(tmp_path)
    score_folder(tmp_path, MapJob("bytes"))
    score_folder(tmp_path, MapJob("contrast", name="fine", grid_size=24))
    ids = np.arange(7)
    expected = np.stack([bytes_map(units_of(photo(i)), 16) for i in ids])
    np.testing.assert_array_equal(ScoreMaps(index, "bytes").grids(ids), expected)
    expected = np.stack([contrast_map(pixels(photo(i)), 24) for i in ids])
    np.testing.assert_array_equal(ScoreMaps(index, "fine").grids(ids), expected)
    assert ScoreMaps(open_index(tmp_path, "val"), "bytes").grids(np.arange(2)).any()


def test_with_units_beside_the_shards_the_maps_are_the_same_bytes(tmp_path: Path) -> None:
    index = shards(tmp_path)
    score_folder(tmp_path, MapJob("bytes"), split="train")
    for number, (shard, numbers) in enumerate(zip(index.shards, (range(4), range(4, 7)), strict=True)):
        tar = tmp_path / shard.name
        write_units(tar, shard.digest, [units_of(photo(i)) for i in numbers])
        assert units_path(tar).is_file(), number
    score_folder(tmp_path, MapJob("bytes", name="from-units"), split="train")
    for shard in index.shards:
        first, second = (ScoreMaps(index, name).grids(np.arange(7)) for name in ("bytes", "from-units"))
        np.testing.assert_array_equal(first, second)
        assert shard.num_samples


def test_several_workers_write_the_same_bytes(tmp_path: Path) -> None:
    index = shards(tmp_path)
    written = []
    for workers in (1, 2):
        score_folder(tmp_path, MapJob("contrast"), workers=workers)
        paths = [map_path(tmp_path / shard.name, "contrast") for shard in index.shards]
        written.append([path.read_bytes() for path in paths])
        for path in paths:
            path.unlink()
    assert written[0] == written[1]


def test_what_is_there_is_not_made_again_and_what_differs_is(tmp_path: Path) -> None:
    index = shards(tmp_path)
    job = MapJob("contrast")
    assert score_folder(tmp_path, job, split="train") == [Scored("train", 7, 2, 0)]
    first, second = (map_path(tmp_path / shard.name, "contrast") for shard in index.shards)
    before = first.stat().st_mtime_ns, second.read_bytes()
    second.write_bytes(second.read_bytes()[:-100])
    assert score_folder(tmp_path, job, split="train") == [Scored("train", 7, 1, 1)]
    assert (first.stat().st_mtime_ns, second.read_bytes()) == before
    assert score_folder(tmp_path, MapJob("contrast", grid_size=8), split="train") == [Scored("train", 7, 2, 0)]
    assert score_folder(tmp_path, MapJob("bytes", name="contrast", grid_size=8), split="train")[0].num_made == 2


def test_images_that_are_not_addressable_are_counted_and_refused(tmp_path: Path) -> None:
    shards(tmp_path, {1: photo(1, addressable=False), 3: photo(3, addressable=False)})
    with pytest.raises(
        ValueError, match=r"2 of the 4 images in .*train-0\.tar are not addressable, the first of them "
    ):
        score_folder(tmp_path, MapJob("bytes"), split="train")
    with pytest.raises(ValueError, match=r"sample '001' .*no restart marker.*tools\.shards readdress .*--by contrast"):
        score_folder(tmp_path, MapJob("bytes"), split="train")
    assert not list(tmp_path.glob("train-0.*.map"))


def test_an_image_that_cannot_be_decoded_is_named_and_can_be_excluded(tmp_path: Path) -> None:
    index = shards(tmp_path, {5: photo(5)[:-400]})
    with pytest.raises(ValueError, match=r"sample '005' in train-1\.tar .*tools\.shards verify .* --exclude"):
        score_folder(tmp_path, MapJob("contrast"), split="train")
    assert [path.name for path in tmp_path.glob("*.map")] == ["train-0.contrast.map"], "what was finished stays"
    add_samples(exclusion_path(tmp_path, "train"), index.fingerprint, [ExcludedSample("train-1.tar", "005", "bad", 5)])
    assert score_folder(tmp_path, MapJob("contrast"), split="train") == [Scored("train", 6, 1, 1)]
    maps = ScoreMaps(open_index(tmp_path, "train"), "contrast")
    assert maps.grids(np.array([6])).any()
    assert maps.facts()[1].unscored == [1]


def test_the_command_says_what_it_made_and_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards(tmp_path)
    assert main(["score", str(tmp_path), "--by", "bytes", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "train: maps bytes of 7 samples, 16 x 16 bytes each; 2 shard(s) scored, 0 had them already" in said
    assert "selection: {rule: map, map: bytes}" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "byte"], "--by is bytes, contrast, magnitude:RUN, attention:RUN or convnet:TIMM_NAME; got 'byte'"),
        (["--by", "magnitude"], "got 'magnitude'"),
        (["--by", "contrast:x"], "got 'contrast:x'"),
        (["--by", "contrast", "--grid", "65"], "--grid 65; allowed is 1 to 64"),
        (["--by", "contrast", "--name", "a.b"], "letters, digits, - and _"),
        (["--by", "contrast", "--weights", "w.pth"], "--weights is of the kind convnet; contrast takes none"),
        (["--by", "contrast", "--workers", "0"], "workers 0; allowed is 1 or more"),
        (["--by", "contrast", "--split", "test"], "no split 'test'"),
        (["--by", "magnitude:runs/none"], "is no run folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    shards(tmp_path)
    assert main(["score", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err
