from pathlib import Path

import pytest
from source_reading import put, read_all

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
    ):
        with pytest.raises(ValueError, match=message):
            open_source(f"csv:{put(tmp_path / 'x.csv', content)}", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_source(f"csv:{tmp_path / 'nowhere.csv'}", tmp_path)
