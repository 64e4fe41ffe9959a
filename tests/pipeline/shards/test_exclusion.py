from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixels import train_planner

from benchmarks.shared.shard_files import image_bytes, write_shard, write_tar
from pipeline.config import DataConfig
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path, known_samples, read_exclusion
from pipeline.shards.index import BadShardsError, ShardIndex, StaleIndexError, build_index, open_index

SHARD_SIZES = (5, 1, 7, 3)
NUM_SAMPLES = sum(SHARD_SIZES)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Labels are the sample ids."""
    folder = tmp_path_factory.mktemp("shards")
    first = np.cumsum((0, *SHARD_SIZES)).tolist()
    for number, size in enumerate(SHARD_SIZES):
        write_shard(folder / f"train-{number}.tar", list(range(first[number], first[number] + size)), first[number])
    return build_index(folder, "train", folder.glob("*.tar"))


def exclude(index: ShardIndex, ids: set[int]) -> ShardIndex:
    """The index as it opens with these samples on its list."""
    samples = [ExcludedSample(index.shards[index.shard[i]].name, index.key(i), "known bad", i) for i in sorted(ids)]
    path = exclusion_path(index.folder, "train")
    path.unlink(missing_ok=True)
    add_samples(path, index.fingerprint, samples)
    try:
        return open_index(index.folder, "train")
    finally:
        path.unlink()


@given(ids=st.sets(st.integers(0, NUM_SAMPLES - 1), max_size=NUM_SAMPLES - 1))
def test_places_are_those_of_the_samples_that_remain(index: ShardIndex, ids: set[int]) -> None:
    view = exclude(index, ids)
    remaining = [i for i in range(NUM_SAMPLES) if i not in ids]
    assert view.num_samples == len(remaining)
    assert view.sample_ids(np.arange(len(remaining))).tolist() == remaining
    assert view.shard_sizes.tolist() == [sum(view.shard[i] == number for i in remaining) for number in range(4)]
    assert view.excluded.tolist() == sorted(ids)


@pytest.mark.parametrize("shuffle", ["global", "window"])
@pytest.mark.parametrize("ids", [{0}, {5}, {4, 5, 6, 15}], ids=str)
def test_no_epoch_and_no_validation_pass_shows_an_excluded_sample_and_each_shows_every_other(
    index: ShardIndex, shuffle: str, ids: set[int]
) -> None:
    view = exclude(index, ids)
    remaining = [i for i in range(NUM_SAMPLES) if i not in ids]
    data = DataConfig(
        train=index.folder, val=index.folder, num_classes=99, shuffle=shuffle, window_shards=2, image_size=32
    )
    planner = train_planner(view, data, global_batch_size=1, total_steps=2 * len(remaining))
    plans = [planner.plan(step) for step in range(2 * len(remaining))]
    for epoch in (plans[: len(remaining)], plans[len(remaining) :]):
        assert sorted(int(plan.sample_ids[0]) for plan in epoch) == remaining
    assert all(plan.labels[0] == plan.sample_ids[0] for plan in plans)
    assert {planner.substitute(i, attempt) for i in range(8) for attempt in range(30)} == set(remaining)

    validation = ValidationPlanner(view, data, SelectionConfig(), 1.0, 4, 0)
    batches = [validation.plan(number) for number in range(validation.num_batches())]
    assert [int(i) for plan in batches for i in plan.sample_ids[plan.counted]] == remaining
    assert not ids & {int(i) for plan in batches for i in plan.sample_ids}


def test_the_fingerprint_tells_what_is_excluded(index: ShardIndex) -> None:
    prints = [exclude(index, ids).fingerprint for ids in ({1}, {2}, {1, 2}, {1})]
    assert len({index.fingerprint, *prints}) == 4
    assert prints[0] == prints[3]


def test_a_list_made_for_other_shards_is_refused_and_begun_anew(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "train-0.tar", [0, 1, 2])
    path = exclusion_path(tmp_path, "train")
    old = build_index(tmp_path, "train", [tar])
    add_samples(path, old.fingerprint, [ExcludedSample("train-0.tar", "sample00001", "known bad", 1)])
    write_shard(tar, [2, 1, 0])
    new = build_index(tmp_path, "train", [tar])
    with pytest.raises(StaleIndexError, match=r"train\.exclude: this list .* was made for other shards"):
        open_index(tmp_path, "train")
    assert known_samples(path, new.fingerprint) == ()
    add_samples(path, new.fingerprint, [ExcludedSample("train-0.tar", "sample00000", "known bad", 0)])
    assert open_index(tmp_path, "train").excluded.tolist() == [0]


def test_adding_keeps_what_is_listed_and_lists_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "train.exclude"
    one, two = ExcludedSample("a.tar", 'odd "key"\nö', "why", 3), ExcludedSample("a.tar", "k", "why", None)
    add_samples(path, "f", [one, one])
    assert add_samples(path, "f", [two, one]).samples == (one, two)
    assert read_exclusion(path).samples == (one, two)
    assert read_exclusion(path).ids.tolist() == [3]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format_version": 1, "fingerprint": "f"}',
        '{"format_version": 2, "fingerprint": "f", "samples": []}',
        '{"format_version": 1, "fingerprint": "f", "samples": [{"shard": "a.tar"}]}',
        '{"format_version": 1, "fingerprint": "f", "samples": [{"shard":"a","key":"k","reason":"r","sample_id":-1}]}',
    ],
)
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.exclude"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"train\.exclude: not a readable list of excluded samples"):
        read_exclusion(path)


def test_an_id_beyond_the_index_is_refused(index: ShardIndex) -> None:
    path = exclusion_path(index.folder, "train")
    add_samples(path, index.fingerprint, [ExcludedSample("train-0.tar", "k", "r", NUM_SAMPLES)])
    with pytest.raises(ValueError, match=f"sample_id {NUM_SAMPLES}, but the index holds {NUM_SAMPLES} samples"):
        open_index(index.folder, "train")
    path.unlink()


# Leaving faulty samples out of the index


def faulty_tar(path: Path) -> Path:
    image = image_bytes(0)
    return write_tar(
        path,
        [
            ("good.png", image),
            ("good.cls", b"1"),
            ("nolabel.png", image),
            ("noimage.cls", b"1"),
            ("text.png", image),
            ("text.cls", b"cat"),
            ("empty.png", b""),
            ("empty.cls", b"1"),
            ("../../etc/x.png", image),
            ("../../etc/x.cls", b"2"),
            ("/etc/y \u00f6.png", image),
            ("/etc/y \u00f6.cls", b"3"),
        ],
    )


def test_faulty_samples_are_left_out_and_listed_if_that_is_asked_for(tmp_path: Path) -> None:
    tar = faulty_tar(tmp_path / "data" / "train-0.tar")
    with pytest.raises(BadShardsError, match=r"4 fault\(s\)"):
        build_index(tar.parent, "train", [tar])
    build_index(tar.parent, "train", [tar], leave_out_faulty=True)
    index = open_index(tar.parent, "train")
    assert index.num_samples == 3
    assert index.label.tolist() == [1, 2, 3]
    listed = {sample.key: sample.reason for sample in read_exclusion(tar.parent / "train.exclude").samples}
    assert set(listed) == {"nolabel", "noimage", "text", "empty"}
    assert "not an integer" in listed["text"]


def test_a_name_that_points_elsewhere_is_only_a_key(tmp_path: Path) -> None:
    tar = faulty_tar(tmp_path / "data" / "train-0.tar")
    index = build_index(tar.parent, "train", [tar], leave_out_faulty=True)
    assert [index.key(i) for i in range(3)] == ["good", "../../etc/x", "/etc/y \u00f6"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "train-0.tar", "train.exclude", "train.index"]


def test_odd_names_and_labels_are_told_in_one_line(tmp_path: Path) -> None:
    image = image_bytes(0)
    names = ["two\nlines", "quote' \"", "\u00fc \U0001f40d", "%s {x}"]
    tar = tmp_path / "train-0.tar"
    write_tar(tar, [member for name in names for member in ((f"{name}.png", image), (f"{name}.cls", b" +7\n"))])
    index = build_index(tmp_path, "train", [tar])
    assert [index.key(i) for i in range(4)] == names
    assert index.label.tolist() == [7] * 4
    assert all("\n" not in index.describe(i) for i in range(4))
    write_tar(tar, [("\udcff.png", image), ("\udcff.cls", b"1"), ("good.png", image), ("good.cls", b"1")])
    with pytest.raises(BadShardsError, match=r"train-0\.tar: '\\udcff': its name is not UTF-8"):
        build_index(tmp_path, "train", [tar])
    assert build_index(tmp_path, "train", [tar], leave_out_faulty=True).num_samples == 1
    assert open_index(tmp_path, "train").key(0) == "good"


def test_a_broken_tar_and_one_without_a_sound_sample_cannot_be_left_out(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train-0.tar", [("a.png", b""), ("a.cls", b"1")])
    with pytest.raises(BadShardsError):
        build_index(tmp_path, "train", [tar], leave_out_faulty=True)
    faulty_tar(tar)
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(BadShardsError, match=r"truncated|not a whole"):
        build_index(tmp_path, "train", [tar], leave_out_faulty=True)
    assert not list(tmp_path.glob("train.*"))
