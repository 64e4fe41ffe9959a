import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import read_all

from tools.shards.sources.source import Source, SourceOptions
from tools.shards.sources.split_map import SplitMap
from tools.shards.sources.table import open_source


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: list[str] | None, plain: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(images if plain else [{"bytes": image, "path": None} for image in images])
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64()), "extra": labels})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=3)


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_files_of_the_hugging_face_layout_are_read(tmp_path: Path, plain: bool) -> None:
    names = ["cat", "dog"]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [b"a", b"b", b"c", b"d"], [0, 1, 1, 0], names, plain)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [b"e"], [1], names, plain)
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", [b"f"], [0], names, plain)
    source = open_source(f"parquet:{tmp_path}", tmp_path)
    assert source.classes == names
    assert source.splits["train"].blocks == [0, 0, 0, 1, 2]
    rows = read_all(f"parquet:{tmp_path}", tmp_path)
    assert [row[1:] for row in rows] == [(b"a", 0), (b"b", 1), (b"c", 1), (b"d", 0), (b"e", 1)]
    assert [row[0] for row in rows][3:] == [
        "data/train-00000-of-00002.parquet:3",
        "data/train-00001-of-00002.parquet:0",
    ]
    assert read_all(f"parquet:{tmp_path}", tmp_path, "val") == [("data/validation-00000-of-00001.parquet:0", b"f", 0)]


def test_parquet_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.parquet file"):
        open_source(f"parquet:{tmp_path}", tmp_path)
    path = tmp_path / "train.parquet"
    for table, message in (
        (pa.table({"img": [b"x"], "label": [1]}), r"needs a column `image` .* holds img \(binary\)"),
        (pa.table({"image": ["x"], "label": [1]}), "needs a column `image`"),
        (pa.table({"image": [b"x"], "label": ["cat"]}), r"`label` of integers; it holds .*label \(string\)"),
        (pa.table({"image": [b"x"], "label": [-1]}), "holds label -1; move this file away"),
    ):
        pq.write_table(table, path)
        with pytest.raises(ValueError, match=message):
            open_source(f"parquet:{tmp_path}", tmp_path)


def splits_of(source: Source) -> dict[str, list[str]]:
    return {split: [name.rpartition(":")[0] for name in one.names] for split, one in source.splits.items()}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("default/train/0000", "default/test/0000", "val"),
        ("plain_text/partial-train/0000", "plain_text/partial-validation/0000", "val"),
        ("train-00000-of-00001", "eval-00000-of-00001", "val"),
        ("train-00000-of-00001", "dev-00000-of-00001", "val"),
        ("train_00000", "val_00000", "val"),
        ("imagenet-train-0", "imagenet-validation-0", "val"),
        ("Training0", "valid0", "val"),
        ("train/part.0", "Test/part.0", "val"),
    ],
)
def test_the_split_stands_in_the_name_of_a_file_or_folder(tmp_path: Path, train: str, other: str, split: str) -> None:
    for name in (train, other):
        write_parquet(tmp_path / f"{name}.parquet", [b"x"], [0], None, plain=True)
    source = open_source(f"parquet:{tmp_path}", tmp_path)
    assert splits_of(source) == {"train": [f"{train}.parquet"], split: [f"{other}.parquet"]}


@pytest.mark.parametrize(
    ("files", "message", "split_map", "splits"),
    [
        (["train-0", "holdout-0"], "not clear to which split holdout-0", "holdout=val", {"train", "val"}),
        (["a", "validationset"], "not clear to which split validationset", "valid*=val,a=train", {"train", "val"}),
        (["train-0", "part-0"], "some files belong to a split .train., but part-0", "part-*=train", {"train"}),
        (["test/train-0"], "not clear to which split", "test=test", {"test"}),
        (["en/train/0", "de/train/0"], "several configurations .de, en.", "*=train", {"train"}),
        (["a/0", "b/0"], "several configurations .a, b.", "b/0.parquet=val,a=train", {"train", "val"}),
    ],
)
def test_names_that_leave_a_doubt_are_refused_until_a_split_map_says_what_they_are(
    tmp_path: Path, files: list[str], message: str, split_map: str, splits: set[str]
) -> None:
    for name in files:
        write_parquet(tmp_path / f"{name}.parquet", [b"x"], [0], None, plain=True)
    with pytest.raises(ValueError, match=rf"{message}.*--split-map"):
        open_source(f"parquet:{tmp_path}", tmp_path)
    source = open_source(f"parquet:{tmp_path}", tmp_path, SourceOptions(SplitMap.parse(split_map)))
    assert set(source.splits) == splits
    assert sum(len(one.names) for one in source.splits.values()) == len(files)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("train-0", "__MACOSX/._train-0", ".cache/x/val-0"):
        write_parquet(tmp_path / f"{name}.parquet", [b"x"], [0], None, plain=True)
    source = open_source(f"parquet:{tmp_path}", tmp_path)
    assert splits_of(source) == {"train": ["train-0.parquet"]}
    assert source.passed_over == {"__MACOSX": 1, "hidden": 1}


def test_files_that_number_their_classes_differently_are_refused_until_they_are_to_be_joined_by_name(
    tmp_path: Path,
) -> None:
    write_parquet(tmp_path / "train-0.parquet", [b"a", b"b", b"c"], [0, 1, 2], ["cat", "dog", "owl"], plain=True)
    write_parquet(tmp_path / "train-1.parquet", [b"d", b"e", b"f"], [0, 1, 2], ["owl", "cat", "dog"], plain=True)
    write_parquet(tmp_path / "val-0.parquet", [b"g", b"h"], [0, 1], ["dog", "cat"], plain=True)
    spec, joining = f"parquet:{tmp_path}", SourceOptions(join_classes=True)
    with pytest.raises(ValueError, match=r"label 0 is 'owl' in train-1\.parquet, 'cat' in .*--join-classes"):
        open_source(spec, tmp_path)

    def rows(split: str) -> list[tuple[bytes, int]]:
        read = open_source(spec, tmp_path, joining).splits[split]
        return [read.read(position) for position in range(len(read.names))]  # type: ignore[misc]

    assert open_source(spec, tmp_path, joining).classes == ["cat", "dog", "owl"]
    assert rows("train") == [(b"a", 0), (b"b", 1), (b"c", 2), (b"d", 2), (b"e", 0), (b"f", 1)]
    assert rows("val") == [(b"g", 1), (b"h", 0)]
    before = open_source(spec, tmp_path, joining).fingerprint
    write_parquet(tmp_path / "val-0.parquet", [b"g", b"h"], [1, 0], ["dog", "cat"], plain=True)
    assert open_source(spec, tmp_path, joining).fingerprint != before


def test_a_file_may_name_the_first_of_the_classes_alone(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [b"a", b"b", b"c"], [0, 1, 2], ["cat", "dog", "owl"], plain=True)
    write_parquet(tmp_path / "val-0.parquet", [b"g", b"h"], [0, 1], ["cat", "dog"], plain=True)
    assert open_source(f"parquet:{tmp_path}", tmp_path).classes == ["cat", "dog", "owl"]


def test_class_names_that_cannot_be_joined_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [b"a", b"b"], [0, 1], ["cat", "dog"], plain=True)
    for names, message in (
        (["cat", "hound"], "val-0.parquet names classes that train-0.parquet does not have: hound"),
        (None, "train-0.parquet names its classes and val-0.parquet does not"),
    ):
        write_parquet(tmp_path / "val-0.parquet", [b"a"], [0], names, plain=True)
        with pytest.raises(ValueError, match=message):
            open_source(f"parquet:{tmp_path}", tmp_path)


def test_columns_of_other_names_are_named(tmp_path: Path) -> None:
    names = {"info": {"features": {"fine_label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
    table = pa.table({"img": [b"x", b"y"], "fine_label": [2, 1], "coarse_label": [0, 0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "train.parquet")
    held = r"holds img \(binary\), fine_label \(int64\), coarse_label \(int64\)"
    with pytest.raises(ValueError, match=rf"{held}; .*--image-column"):
        open_source(f"parquet:{tmp_path}", tmp_path)
    with pytest.raises(ValueError, match=rf"{held}; .*--label-column"):
        open_source(f"parquet:{tmp_path}", tmp_path, SourceOptions(image_column="img"))
    options = SourceOptions(image_column="img", label_column="fine_label")
    source = open_source(f"parquet:{tmp_path}", tmp_path, options)
    assert source.classes == ["a", "b", "c"]
    assert [source.splits["train"].read(position) for position in range(2)] == [(b"x", 2), (b"y", 1)]
    coarse = SourceOptions(image_column="img", label_column="coarse_label")
    assert open_source(f"parquet:{tmp_path}", tmp_path, coarse).fingerprint != source.fingerprint


def test_a_label_that_numbers_no_class_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [b"a"], [99_999_999_999], None, plain=True)
    with pytest.raises(ValueError, match=r"holds label 99999999999 in 1 rows, .* may go up to 99999"):
        open_source(f"parquet:{tmp_path}", tmp_path)
