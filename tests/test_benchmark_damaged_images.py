"""The benchmark of damaged images in small: conversion, check and loader agree, and every finding is counted."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.damaged_images import __main__ as benchmark
from benchmarks.damaged_images.files import FILES
from benchmarks.damaged_images.kinds import KINDS
from benchmarks.damaged_images.loading import LoaderJudge
from benchmarks.damaged_images.shards import NUM_SOUND, DamagedFile, damaged_files, write_shards
from benchmarks.damaged_images.verdicts import (
    ANEW,
    BAD,
    CONVERTED_BAD,
    CRASH,
    DEAD_END,
    DISAGREE,
    FAULT,
    KEPT,
    PASSES,
    READS,
    REJECTED,
    Verdicts,
    summed_up,
)
from pipeline.shards.index import build_index, open_index
from pipeline.shards.reader import SampleReader


def judge_here(folder: Path, batches: list[list[int]]) -> list[list[str]]:
    index = open_index(folder, "train")
    with SampleReader(index) as reader:
        judge = LoaderJudge(index, reader)
        return [judge.judge(ids) for ids in batches]


def test_conversion_check_and_loader_agree_on_files_of_every_kind_and_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "judge_in_child", judge_here)
    everything = damaged_files(len(FILES) * len(KINDS), seed=3)
    # A step that shares no factor with the number of kinds: all of them occur, and all files.
    chosen = [*everything[:-NUM_SOUND:8], *everything[-NUM_SOUND:]]
    files = [DamagedFile(number, one.file, one.kind, one.data) for number, one in enumerate(chosen)]
    assert {one.kind for one in files} == set(KINDS)
    assert {one.file for one in files} == set(FILES)
    found = summed_up(files, benchmark.judge_all(tmp_path, files, workers=1))
    assert found["findings"] == []
    assert {outcome.split(",")[0] for outcome in found["outcomes"]} == {KEPT, ANEW, REJECTED}


@pytest.mark.parametrize(
    ("conversion", "check", "loader", "converted", "finding"),
    [
        (KEPT, PASSES, READS, "", ""),
        (ANEW, FAULT, BAD, "", ""),
        (REJECTED, FAULT, READS, "", ""),
        (KEPT, PASSES, BAD, "", DEAD_END),
        (KEPT, FAULT, BAD, "", DISAGREE),
        (REJECTED, PASSES, READS, "", DISAGREE),
        (ANEW, FAULT, CRASH, "", CRASH),
        (ANEW, FAULT, BAD, CONVERTED_BAD, CONVERTED_BAD),
    ],
)
def test_a_contradiction_is_a_finding(conversion: str, check: str, loader: str, converted: str, finding: str) -> None:
    verdict = Verdicts(conversion, check, loader, "odd", converted)
    assert verdict.finding == finding
    files = [DamagedFile(0, "PNG", "none", b"")]
    result = summed_up(files, [verdict])
    assert result["outcomes"] == {f"{conversion}, {check}, {loader}": 1}
    assert [one["finding"] for one in result["findings"]] == ([finding] if finding else [])


def test_samples_that_end_their_process_are_found_by_halving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {30, 70}

    def run(_: Path, batches: list[list[int]]) -> list[list[str]]:
        found: list[list[str]] = []
        for ids in batches:
            if hostile & set(ids):
                break
            found.append([""] * len(ids))
        return found

    write_shards(tmp_path, [DamagedFile(i, "PNG", "none", FILES["PNG"](0)) for i in range(100)])
    build_index(tmp_path, "train", tmp_path.glob("*.tar"))
    monkeypatch.setattr(benchmark, "judge_in_child", run)
    assert benchmark.judge_by_loader(tmp_path) == {i: CRASH if i in hostile else "" for i in range(100)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_every_kind_changes_files_of_every_format(kind: str) -> None:
    for name in ("JPEG", "PNG", "WebP with EXIF", "BMP, 24 bits"):
        sound = FILES[name](0)
        damaged = {KINDS[kind](sound, np.random.default_rng(seed)) for seed in range(6)}
        assert damaged - {sound}, name
