import pytest

from benchmarks.damaged_images.files import FILES
from tools.shards.decoding.jpeg_scan import is_one_whole_scan

BASELINE = ["JPEG", "JPEG, grey", "JPEG with EXIF", "JPEG, CMYK"]


@pytest.mark.parametrize("name", list(FILES))
def test_sequential_jpegs_of_one_scan_are_told_from_all_others(name: str) -> None:
    is_one = name.startswith("JPEG") and name not in ("JPEG, progressive", "JPEG, lossless")
    assert is_one_whole_scan(FILES[name](0)) == is_one


@pytest.mark.parametrize("name", BASELINE)
def test_what_does_not_end_with_its_scan_is_not_one(name: str) -> None:
    data = FILES[name](0)
    scan = data.index(b"\xff\xda")
    scan_end = scan + 2 + data[scan + 3]
    assert is_one_whole_scan(data + b"more")
    for damaged in (
        data[:-2],
        data[: len(data) // 2],
        data[:scan_end] + data[scan:],  # a scan without data, and then the scan
        data[:-2] + b"\xff\xc0" + data[-2:],
        data[:scan],
        data[:2],
        b"",
    ):
        assert not is_one_whole_scan(damaged)


def test_other_processes_and_precisions_are_not() -> None:
    data = FILES["JPEG"](0)
    frame = data.index(b"\xff\xc0")
    for marker in (0xC2, 0xC3, 0xC9):
        assert not is_one_whole_scan(data[: frame + 1] + bytes([marker]) + data[frame + 2 :])
    assert not is_one_whole_scan(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
