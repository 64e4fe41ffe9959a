"""The cache of a host: what it holds, what goes, and what two who want the same do to one another."""

import os
from pathlib import Path

import pytest

from pipeline.storage.cache import Cache, CachedFile, Claim, Unclaimed

A, B, C = CachedFile("a", 10), CachedFile("b", 10), CachedFile("c", 10)


def fill(cache: Cache, file: CachedFile, own: set[str] | None = None) -> int:
    """Put a file into the cache. Returns its descriptor."""
    claim = cache.claim(file, own or set(), needed=False)
    assert isinstance(claim, Claim)
    os.pwrite(claim.descriptor, b"x" * file.size_bytes, 0)
    return cache.finish(file, claim)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_is_fetched_by_one_and_opened_by_all(tmp_path: Path) -> None:
    first, second = Cache(tmp_path, None), Cache(tmp_path, None)
    assert first.open(A) is None
    claim = first.claim(A, set(), needed=False)
    assert isinstance(claim, Claim)
    assert second.claim(A, set(), needed=True) is Unclaimed.IS_TAKEN
    os.pwrite(claim.descriptor, b"x" * 10, 0)
    assert second.open(A) is None
    first.finish(A, claim)
    assert second.claim(A, set(), needed=True) is Unclaimed.IS_THERE
    descriptor = second.open(A)
    assert descriptor is not None
    assert os.read(descriptor, 99) == b"x" * 10


def test_what_is_open_stays_and_what_is_not_makes_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20)
    a, b = fill(cache, A), fill(cache, B)
    assert cache.claim(C, set(), needed=False) is Unclaimed.NO_ROOM
    os.close(b)
    os.close(fill(cache, C))
    assert names(tmp_path) == {"a-10", "c-10"}
    os.close(a)


def test_what_is_needed_now_is_fetched_though_there_is_no_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10)
    a = fill(cache, A)
    claim = cache.claim(B, set(), needed=True)
    assert isinstance(claim, Claim)
    claim.give_up()
    os.close(a)


def test_other_sets_go_first_and_of_its_own_the_one_used_last(tmp_path: Path) -> None:
    cache, own = Cache(tmp_path, 40), {"a-10", "b-10", "c-10", "d-10"}
    for file in (CachedFile("other", 10), A, B):
        os.close(fill(cache, file, own))
    os.close(fill(cache, C, own))
    os.close(fill(cache, CachedFile("d", 10), own))
    assert names(tmp_path) == own
    os.close(cache.open(A) or -1)
    os.close(fill(cache, CachedFile("e", 10), own | {"e-10"}))
    assert names(tmp_path) == (own | {"e-10"}) - {"a-10"}


@pytest.mark.parametrize("num_bytes", [4, 12])
def test_what_is_left_of_an_earlier_fetch_is_gone_on_with(tmp_path: Path, num_bytes: int) -> None:
    cache = Cache(tmp_path, None)
    claim = cache.claim(A, set(), needed=False)
    assert isinstance(claim, Claim)
    os.pwrite(claim.descriptor, b"x" * num_bytes, 0)
    claim.give_up()
    assert cache.size_of_part(A) == num_bytes
    again = cache.claim(A, set(), needed=False)
    assert isinstance(again, Claim)
    assert again.done == num_bytes
    again.give_up()


def test_a_part_counts_as_the_whole_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 15)
    claim = cache.claim(A, set(), needed=False)
    assert isinstance(claim, Claim)
    assert cache.num_bytes() == 10
    assert cache.claim(B, set(), needed=False) is Unclaimed.NO_ROOM
    claim.give_up()


@pytest.mark.parametrize("what", ["cut short", "written to"])
def test_a_file_that_someone_changed_is_fetched_anew(tmp_path: Path, what: str) -> None:
    cache = Cache(tmp_path, None)
    os.close(fill(cache, A))
    if what == "cut short":
        os.truncate(tmp_path / "a-10", 3)
    else:
        (tmp_path / "a-10").write_bytes(b"y" * 10)
    assert cache.open(A) is None
    os.close(fill(cache, A))
    assert (tmp_path / "a-10").read_bytes() == b"x" * 10
