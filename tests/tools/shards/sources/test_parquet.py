import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import read_all

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
