"""Errors before a run begins."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from engine.ranks import devices
from engine.ranks import world as world_module
from engine.ranks.world import World, close_group, one_clear_error, open_group


@pytest.fixture
def alone() -> Iterator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"), hosts=("here",))
    dist.destroy_process_group()


def test_a_users_error_is_one_line_and_code_2(alone: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_clear_error(alone):
        raise ValueError("the batch is too large")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the batch is too large\n"


@pytest.mark.parametrize(("local_rank", "lines"), [("0", 1), ("3", 0)])
def test_a_driver_too_old_ends_every_rank_before_they_meet_with_a_line_of_each_host(
    local_rank: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    for hiding in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.delenv(hiding, raising=False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(devices, "driver_cuda", lambda: 12040)
    monkeypatch.setattr("pipeline.told._told", set())
    with pytest.raises(SystemExit) as end:
        world_module.join_world()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("error: this machine's NVIDIA driver is for CUDA 12.4") == lines


@pytest.mark.parametrize(("local_rank", "lines"), [("1", 1), ("2", 0)])
def test_ranks_without_a_gpu_end_before_they_meet_and_the_first_of_them_says_so(
    local_rank: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"RANK": local_rank, "WORLD_SIZE": "3", "LOCAL_RANK": local_rank, "LOCAL_SIZE": "3"}
    for name, value in {**place, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world_module, "check_gpus", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SystemExit) as end:
        world_module.join_world()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == said.count(f"error: LOCAL_RANK is {local_rank}, but this host shows 1 GPU(s)") == lines


def test_any_other_exception_is_one_traceback_and_code_1(alone: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_clear_error(alone):
        raise LookupError("no such thing")
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Traceback")
    assert said.endswith("LookupError: no such thing\n")


class TwoRanks:
    """Two threads that play ranks: each counts its groups, as torch does for their names."""

    def __init__(self, failures: set[tuple[int, int]]) -> None:
        self.failures, self.numbers, self.destroyed = failures, Counter[int](), list[str]()
        self._barrier, self._here = threading.Barrier(2), threading.local()
        self._votes = [False, False]

    def new_group(self, **_: object) -> str:
        rank = self._here.rank
        self.numbers[rank] += 1
        if (rank, self.numbers[rank]) in self.failures:
            raise RuntimeError("Gloo connectFullMesh failed with ... Connection closed by peer")
        return f"group {self.numbers[rank]}"

    def agree(self, world: World, flag: bool) -> bool:
        self._votes[world.rank] = flag
        self._barrier.wait()
        agreed = any(self._votes)
        self._barrier.wait()
        return agreed

    def open(self, rank: int) -> str | RuntimeError:
        self._here.rank = rank
        try:
            return open_group(World(rank, 2, rank, 2, torch.device("cpu"), ("here", "here")))
        except RuntimeError as error:
            return error

    def open_both(self, monkeypatch: pytest.MonkeyPatch) -> list[str | RuntimeError]:
        monkeypatch.setattr(dist, "new_group", self.new_group)
        monkeypatch.setattr(dist, "destroy_process_group", self.destroyed.append)
        monkeypatch.setattr(world_module, "agree", self.agree)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.open, range(2)))


def test_a_group_that_one_rank_could_not_open_is_opened_anew_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = TwoRanks({(1, 1)})
    assert ranks.open_both(monkeypatch) == ["group 2", "group 2"]
    assert ranks.destroyed == ["group 1"], "what the other rank had"


def test_a_group_that_never_opens_is_an_error_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = TwoRanks({(0, 1), (1, 2), (0, 3)})
    ended = ranks.open_both(monkeypatch)
    assert [str(error) for error in ended] == ["the ranks could not open a group among them in 3 attempts"] * 2
    assert ranks.numbers == {0: 3, 1: 3}


def test_a_group_is_there_until_it_is_closed(alone: World) -> None:
    group = open_group(alone)
    votes = torch.ones(1)
    dist.all_reduce(votes, group=group)
    close_group(group)
    with pytest.raises(ValueError, match="Invalid process group"):
        dist.destroy_process_group(group)
