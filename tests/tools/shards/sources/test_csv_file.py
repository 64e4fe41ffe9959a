from pathlib import Path

import pytest
from source_reading import put, read_all

from tools.shards.sources.source import SourceOptions
from tools.shards.sources.split_map import SplitMap
from tools.shards.sources.table import open_source


def test_csv_labels_are_numbers_or_names(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png", b"a")
    put(tmp_path / "images/b c.png", b"b")
    numbers = put(tmp_path / "n.csv", b"\xef\xbb\xbfpath,label,more\nimages/a.png,2,x\nimages/b c.png,0,y\n")
    assert open_source(f"csv:{numbers}", tmp_path).classes == ["0", "1", "2"]
    assert [row[1:] for row in read_all(f"csv:{numbers}", tmp_path)] == [(b"a", 2), (b"b", 0)]
    names = put(tmp_path / "w.csv", b'path,label\nimages/a.png,zebra\n"images/b c.png",ant\n')
    assert open_source(f"csv:{names}", tmp_path).classes == ["ant", "zebra"]
    assert [row[2] for row in read_all(f"csv:{names}", tmp_path)] == [1, 0]
    other = put(tmp_path / "o.csv", b"path,label\nimages/a.png,1\nimages/b c.png,0\n")
    assert open_source(f"csv:{other}", tmp_path).fingerprint != open_source(f"csv:{numbers}", tmp_path).fingerprint


def test_faulty_csv_files_are_named(tmp_path: Path) -> None:
    for content, message in (
        (b"file,class\na,1\n", "needs the columns path and label"),
        (b"path,label\na.png,1\nb.png\n", "line 3: path or label is empty"),
        (b"path,label\n", "no images in split 'train'"),
        (b"", "needs the columns path and label"),
        (b"path,label\na.png,caf\xe9\n", "not a CSV file in UTF-8"),
        (b'path,label\n"' + b"a" * 200_000 + b'",1\n', "not a CSV file in UTF-8 .field larger"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(f"csv:{put(tmp_path / 'x.csv', content)}", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_source(f"csv:{tmp_path / 'nowhere.csv'}", tmp_path)


@pytest.mark.parametrize(
    ("written", "labels"),
    [(["0.0", "2.0", "10.0"], [0, 2, 10]), (["1", "1.", "+0", "1e1"], [1, 1, 0, 10]), (["007", "7"], [7, 7])],
)
def test_whole_numbers_are_labels_however_they_are_written(
    tmp_path: Path, written: list[str], labels: list[int]
) -> None:
    text = "path,label\n" + "".join(f"{number}.png,{label}\n" for number, label in enumerate(written))
    for number in range(len(written)):
        put(tmp_path / f"{number}.png", b"x")
    spec = f"csv:{put(tmp_path / 'x.csv', text.encode())}"
    assert [row[2] for row in read_all(spec, tmp_path)] == labels
    assert open_source(spec, tmp_path).classes == [str(number) for number in range(max(labels) + 1)]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("1.5", "its label is 1.5; numbers of classes are whole"),
        ("-1", "its label is '-1', which is none"),
        ("-3", "its label is -3; numbers of classes .* count from 0"),
        ("nan", "its label is 'nan', which is none"),
        ("NaN", "its label is 'NaN', which is none"),
        (" ", "path or label is empty"),
        ("99999999999", "its label is 99999999999, but numbers of classes count from 0, up to 99999 "),
        ("1e999999999999", "its label is 1e999999999999, but numbers"),
    ],
)
def test_labels_that_number_no_class_are_refused_with_file_and_line(tmp_path: Path, label: str, message: str) -> None:
    file = put(tmp_path / "x.csv", f"path,label\na.png,0\nb.png,{label}\n".encode())
    with pytest.raises(ValueError, match=rf"x\.csv, line 3: {message}"):
        open_source(f"csv:{file}", tmp_path)


def test_a_missing_label_is_none_among_names_either(tmp_path: Path) -> None:
    file = put(tmp_path / "x.csv", b"path,label\na.png,cat\nb.png,nan\n")
    with pytest.raises(ValueError, match=r"line 3: its label is 'nan'"):
        open_source(f"csv:{file}", tmp_path)


def test_a_column_split_divides_the_rows(tmp_path: Path) -> None:
    put(tmp_path / "x.csv", b"path,label,split\na,0,train\nb,2,Validation\nc,1,train\nd,0,extra\n")
    with pytest.raises(ValueError, match=r"line 5: its split is 'extra'; .*--split-map"):
        open_source(f"csv:{tmp_path / 'x.csv'}", tmp_path)
    source = open_source(f"csv:{tmp_path / 'x.csv'}", tmp_path, SourceOptions(SplitMap.parse("extra=test")))
    assert source.classes == ["0", "1", "2"]
    assert {split: content.names for split, content in source.splits.items()} == {
        "train": ["a", "c"],
        "val": ["b"],
        "test": ["d"],
    }


def test_columns_of_other_names_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.png", b"a")
    put(tmp_path / "x.csv", b"file,class\na.png,4\n")
    with pytest.raises(ValueError, match=r"first line is .'file', 'class'.; other columns .* --image-column"):
        open_source(f"csv:{tmp_path / 'x.csv'}", tmp_path)
    options = SourceOptions(image_column="file", label_column="class")
    assert open_source(f"csv:{tmp_path / 'x.csv'}", tmp_path, options).splits["train"].read(0) == (b"a", 4)
