import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.files import write_atomically

Content = bytes | memoryview | str


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """As a disk that fills up: the bytes up to there are still written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"\x00\xffbytes", b"\x00\xffbytes"),
        (memoryview(b"a view"), b"a view"),
        ("text, ä\n", b"text, \xc3\xa4\n"),
        (b"name\xff".decode("utf-8", "surrogateescape"), b"name\xff"),
        ("", b""),
    ],
)
def test_what_was_given_is_what_the_file_holds(tmp_path: Path, data: Content, written: bytes, sync: bool) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, data, sync=sync)
    assert path.read_bytes() == written
    assert names_in(tmp_path) == ["file.json"]


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "a longer text than the next", sync=False)
    with path.open() as reader:
        write_atomically(path, "short", sync=False)
        assert reader.read() == "a longer text than the next"
    assert path.read_text() == "short"


@pytest.mark.parametrize("sync", [False, True])
def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with files_no_larger_than(4096), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(100_000), sync=sync)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_first_write_that_fails_midway_leaves_no_file(tmp_path: Path) -> None:
    with files_no_larger_than(4096), pytest.raises(OSError):
        write_atomically(tmp_path / "file", bytes(100_000), sync=False)
    assert names_in(tmp_path) == []


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new", sync=True)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_place_that_cannot_be_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "text", sync=False)
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "ours", "text", sync=False)
        (tmp_path / "plain").write_text("text")
    finally:
        os.umask(before)
    ours, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain"))
    assert ours == plain == 0o666 & ~mask


def test_the_content_is_on_the_disk_before_the_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(descriptor)

    def seen_replace(path: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr("os.fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    write_atomically(tmp_path / "file", "text", sync=True)
    assert done == ["4 bytes", "renamed", "folder"]
    done.clear()
    write_atomically(tmp_path / "file", "text", sync=False)
    assert done == ["renamed"]
