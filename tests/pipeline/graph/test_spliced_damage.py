"""Damaged addressable JPEGs, of which no more is read than is needed, against the ordinary way and the sound files.

``python -m benchmarks.damaged_jpegs`` does the same to thousands of real photographs.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg, encoded, picture

from benchmarks.damaged_jpegs.kinds import KINDS, DamagedShards, write_damaged_shards
from benchmarks.damaged_jpegs.outcomes import (
    AS_ORDINARY,
    BOTH_BAD,
    BOTH_SOUND,
    FINDINGS,
    KEEP_RATES,
    SOUND_ALONE,
    Judge,
)
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import UnreadableUnitsError, units_path

pytestmark = pytest.mark.timeout(300)

NUM_IMAGES = 4 * len(KINDS)
BATCH_SIZE, IMAGE_SIZE, PATCH_SIZE = 20, 64, 8


def sound_images() -> list[bytes]:
    """Small photographs with colour at half size, one with colour at full size, one in grey."""
    full = encoded(picture(20, 100, 90), restart_marker_blocks=1, optimize=True, subsampling="4:4:4")
    grey = encoded(picture(21, 110, 80, "L"), restart_marker_blocks=1, optimize=True)
    return [*(addressable_jpeg(seed, 120 + seed, 100 - seed) for seed in range(9)), full, grey]


def open_judge(shards: DamagedShards, reader: SampleReader) -> Judge:
    return Judge(shards, reader, batch_size=BATCH_SIZE, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> DamagedShards:
    return write_damaged_shards(tmp_path_factory.mktemp("damaged"), sound_images(), NUM_IMAGES, seed=0)


@pytest.fixture(scope="module")
def outcomes(damaged: DamagedShards) -> dict[str, Counter[str]]:
    """Of each kind of damage, how often what came of it."""
    found = {kind: Counter[str]() for kind in KINDS}
    with SampleReader(damaged.index) as reader:
        judge = open_judge(damaged, reader)
        for number, first in enumerate(range(0, NUM_IMAGES, BATCH_SIZE)):
            ids = range(first, min(first + BATCH_SIZE, NUM_IMAGES))
            for sample_id, one in zip(ids, judge.judge(judge.plan(number, ids)), strict=True):
                found[damaged.kinds[sample_id]][one.outcome] += 1
    return found


def test_no_damage_gives_wrong_pixels_or_a_fault_that_is_not_named(outcomes: dict[str, Counter[str]]) -> None:
    assert sum(found.total() for found in outcomes.values()) == NUM_IMAGES
    findings = {kind: found for kind, found in outcomes.items() if set(found) & set(FINDINGS)}
    assert not findings


def test_every_way_to_end_well_is_met(outcomes: dict[str, Counter[str]]) -> None:
    """Else the damage would be too weak, or whole files would be read, and nothing shown."""
    met = sum(outcomes.values(), Counter[str]())
    assert set(met) >= {BOTH_SOUND, AS_ORDINARY, BOTH_BAD, SOUND_ALONE}


def test_wrong_units_of_sound_images_change_nothing(outcomes: dict[str, Counter[str]]) -> None:
    for kind, what in KINDS.items():
        if not what.images:
            assert set(outcomes[kind]) == {BOTH_SOUND}, kind


def test_a_header_that_is_not_that_of_an_addressable_jpeg_leads_the_ordinary_way(
    outcomes: dict[str, Counter[str]],
) -> None:
    for kind in ("another restart interval", "another height or width"):
        assert set(outcomes[kind]) <= {AS_ORDINARY, BOTH_BAD}, kind


def test_a_file_of_units_that_is_cut_short_while_it_is_open_is_named(tmp_path: Path) -> None:
    shards = write_damaged_shards(tmp_path, sound_images(), len(KINDS), seed=1)
    with SampleReader(shards.index) as reader:
        judge = open_judge(shards, reader)
        judge.judge(judge.plan(0, [0, 1]))
        os.truncate(tmp_path / "train-000001.units", 100)
        judge.judge(judge.plan(1, [0]))
        with pytest.raises(UnreadableUnitsError, match=r"train-000001\.units: was cut short"):
            judge.judge(judge.plan(2, [0, 1]))


def test_a_file_of_units_that_is_overwritten_while_it_is_open_does_no_harm(tmp_path: Path) -> None:
    shards = write_damaged_shards(tmp_path, sound_images(), len(KINDS), seed=1)
    ids = [i for i, kind in enumerate(shards.kinds) if not KINDS[kind].images]
    with SampleReader(shards.index) as reader:
        judge = open_judge(shards, reader)
        for number in range(len(KEEP_RATES)):
            assert {one.outcome for one in judge.judge(judge.plan(number, ids))} == {BOTH_SOUND}
        for shard in shards.index.shards:
            path = units_path(tmp_path / shard.name)
            if path.exists():
                with path.open("r+b") as file:
                    file.write(np.random.default_rng(2).bytes(path.stat().st_size))
        for number in range(len(KEEP_RATES)):
            assert {one.outcome for one in judge.judge(judge.plan(number, ids))} == {BOTH_SOUND}
