"""The benchmark of damaged JPEGs: what it counts, and that a crash is counted too."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks.damaged_jpegs import __main__ as benchmark
from benchmarks.damaged_jpegs.kinds import KINDS, Kind, damaged_image, write_damaged_shards
from benchmarks.damaged_jpegs.outcomes import BOTH_SOUND, CRASH, WRONG, has_own_marker_alone
from benchmarks.shared.photographs import jpeg_bytes
from pipeline.jpeg.addressable import units_of
from pipeline.shards.reader import SampleReader


def images() -> list[bytes]:
    return [jpeg_bytes(seed, 60, 50, addressable=True) for seed in range(3)]


def test_images_that_end_their_process_are_crashes_and_all_others_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {30, 70}

    def run(_: Path, batches: list[tuple[int, list[int]]], __: argparse.Namespace) -> list[Any]:
        found: list[Any] = []
        for _, ids in batches:
            if hostile & set(ids):
                break
            found.append([[BOTH_SOUND, [str(i)]] for i in ids])
        return found

    monkeypatch.setattr(benchmark, "run_child", run)
    found = benchmark.judge_all(Path("unused"), argparse.Namespace(images=100))
    assert found == [[CRASH, []] if i in hostile else [BOTH_SOUND, [str(i)]] for i in range(100)]


def test_every_kind_is_counted_and_every_finding_listed(tmp_path: Path) -> None:
    shards = write_damaged_shards(tmp_path, images(), 2 * len(KINDS), seed=0)
    found: list[Any] = [[BOTH_SOUND, ["because"]] for _ in shards.kinds]
    found[5] = [WRONG, []]
    result = benchmark.summed_up(shards, found)
    assert list(result["kinds"]) == list(KINDS)
    assert {entry["images"] for entry in result["kinds"].values()} == {2}
    assert result["outcomes"] == {BOTH_SOUND: 2 * len(KINDS) - 1, WRONG: 1}
    assert result["findings"] == [{"sample_id": 5, "kind": shards.kinds[5], "outcome": WRONG, "causes": []}]


def test_every_kind_damages_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    shards = write_damaged_shards(tmp_path, images(), 2 * len(KINDS), seed=0)
    with SampleReader(shards.index) as reader:
        stored = [image.tobytes() for image in reader.read(range(shards.index.num_samples))]
    for sample_id, kind in enumerate(shards.kinds):
        assert (stored[sample_id] != shards.sound[sample_id]) == bool(KINDS[kind].images), kind
    assert stored[len(shards.kinds) :] == shards.sound[len(shards.kinds) :]


def test_an_image_of_no_damage_stays_as_it_is() -> None:
    file = images()[0]
    assert damaged_image(file, Kind(), units_of(file), None) == file  # type: ignore[arg-type]


def test_a_unit_has_its_own_marker_alone() -> None:
    assert has_own_marker_alone(b"\x12\xff\x00\x34\xff\xd3", 11, False)
    assert has_own_marker_alone(b"\x12\xff\xd9", 3, True)
    assert not has_own_marker_alone(b"\x12\xff\xd4", 11, False)
    assert not has_own_marker_alone(b"\x12\xff\xd1\x34\xff\xd3", 11, False)
    assert not has_own_marker_alone(b"\x12\x34\xff\x00", 11, False)
