"""No bit of an index, a map, a file of units or a list of excluded samples changes in silence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline import told
from pipeline.selection.maps import ScoreMaps, map_path, write_maps
from pipeline.shards import arrow_file, checked_rows
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path, read_exclusion
from pipeline.shards.index import ShardIndex, build_index, index_path, open_index


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(told, "_told", set())
    for number, labels in enumerate([[3, 1, 4], [1, 5], [9, 2, 6]]):
        write_shard(tmp_path / f"train-{number}.tar", labels, first=10 * number)
    build_index(tmp_path, "train", tmp_path.glob("*.tar"))
    return tmp_path


def flipped(content: bytes, at: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[at] ^= 1 << bit
    return bytes(damaged)


def seen(index: ShardIndex) -> list[tuple]:
    """All that an index says of its samples."""
    numbers = (index.shard, index.offset, index.length, index.label, index.width, index.height)
    rows = zip(*(column.tolist() for column in numbers), strict=True)
    facts = (index.split, index.fingerprint, index.label_field, index.min_label, index.max_label, index.shards)
    return [facts, *((*row, index.key(i), index.extension(i)) for i, row in enumerate(rows))]


def test_any_bit_that_is_flipped_gives_the_same_index_or_an_error_that_names_the_file(folder: Path) -> None:
    path = index_path(folder, "train")
    sound, random = path.read_bytes(), np.random.default_rng(0)
    right = seen(open_index(folder, "train"))
    messages: list[str] = []
    for at in random.integers(len(sound), size=600).tolist():
        path.write_bytes(flipped(sound, at, int(random.integers(8))))
        try:
            found = seen(open_index(folder, "train"))
        except ValueError as error:
            messages.append(str(error))
        else:
            assert found == right  # padding between the columns, or what Arrow does not look at
    assert len(messages) > 300
    assert all(message.startswith(str(path)) for message in messages)
    assert all("make it again with: python -m tools.shards index" in message for message in messages)


def test_a_changed_label_names_its_shard(folder: Path) -> None:
    path = index_path(folder, "train")
    content = path.read_bytes()
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6], "<i4").tobytes()
    assert content.count(labels) == 1
    path.write_bytes(content.replace(labels, np.array([3, 1, 4, 1, 7, 9, 2, 6], "<i4").tobytes()))
    with pytest.raises(ValueError, match=r"train\.index: its rows 3 to 4 are not .* \(of train-1\.tar\)"):
        open_index(folder, "train")


def test_the_rows_of_a_large_index_are_checked_shard_by_shard_as_they_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_rows, "READ_AHEAD_UP_TO_BYTES", 100)
    path = index_path(folder, "train")
    content = path.read_bytes()
    at = content.index(np.array([3, 1, 4, 1, 5, 9, 2, 6], "<i4").tobytes()) + 4 * 4
    path.write_bytes(flipped(content, at, 1))
    index = open_index(folder, "train")
    index.check(np.array([0, 7, 2]))
    index.check(np.array([0, 7, 2]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\(of train-1\.tar\)"):
            index.check(np.array([7, 3]))


def test_an_index_that_is_cut_short_under_a_run_is_an_error(folder: Path) -> None:
    index = open_index(folder, "train")
    os.truncate(index_path(folder, "train"), 100)
    with pytest.raises(ValueError, match=r"train\.index: .* cut short while it was open, from \d+ to 100 bytes"):
        index.check(np.array([0]))


def test_an_index_of_the_old_form_opens_with_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = arrow_file._digest_of_facts
    monkeypatch.setattr(json, "dumps", without_digests(json.dumps))
    build_index(folder, "train", folder.glob("*.tar"))
    monkeypatch.undo()
    assert arrow_file._digest_of_facts is digests
    right = open_index(folder, "train")
    assert open_index(folder, "train").label.tolist() == right.label.tolist() == [3, 1, 4, 1, 5, 9, 2, 6]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{index_path(folder, 'train')}: has no digests of its rows, so they are not checked")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(told, "_told", set())
    open_index(folder, "train")
    assert capsys.readouterr().err == ""


def without_digests(dumps: Callable[..., str]) -> Callable[..., str]:
    def old(facts: Any, **options: Any) -> str:
        if isinstance(facts, dict):
            facts = {key: value for key, value in facts.items() if key not in ("row_digests", "facts_digest")}
        return dumps(facts, **options)

    return old


def test_a_score_that_changed_is_an_error_when_its_shard_is_first_used(folder: Path) -> None:
    index = open_index(folder, "train")
    for number, shard in enumerate(index.shards):
        grids = np.full((shard.num_samples, 4, 4), 77 + number, np.uint8)
        write_maps(folder / shard.name, "mine", shard.digest, grids, kind="mine", made_by={}, unscored=[])
    path = map_path(folder / "train-1.tar", "mine")
    content = path.read_bytes()
    path.write_bytes(flipped(content, content.index(bytes([78] * 32)) + 5, 0))
    maps = ScoreMaps(index, "mine")
    assert (maps.grids(np.array([0, 7])) == np.array([77, 79])[:, None, None]).all()
    with pytest.raises(ValueError, match=r"train-1\.mine\.map: its scores are not those .* tools\.shards score"):
        maps.grids(np.array([3]))


def test_a_list_of_excluded_samples_that_changed_is_refused_and_one_without_a_digest_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exclusion_path(folder, "train")
    index = open_index(folder, "train")
    add_samples(path, index.fingerprint, [ExcludedSample("train-0.tar", index.key(1), "known bad", 1)])
    assert read_exclusion(path).ids.tolist() == [1]
    content = json.loads(path.read_text())
    content["samples"][0]["sample_id"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not as it was written; if that is meant, take its digest out"):
        open_index(folder, "train")
    assert capsys.readouterr().err == ""
    del content["digest"]
    path.write_text(json.dumps(content))
    assert open_index(folder, "train").excluded.tolist() == [2]
    assert "train.exclude: this list of excluded samples has no digest" in capsys.readouterr().err
