"""What ranks must agree on: the parts that need no other rank. tests/multinode has the rest."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.shared.toy_data import write_toy_config
from engine.config import load_config
from engine.ranks.preflight import (
    PLACES,
    clocks_apart,
    compared,
    describe_devices,
    differences,
    flat,
    name_ranks,
    software,
    sources_digest,
)
from engine.ranks.world import World

HOSTS = ["host-a", "host-a", "host-b", "host-b"]


def test_ranks_that_agree_differ_in_nothing() -> None:
    assert differences([{"torch": "2.14.1", "seed": 0, "betas": [0.9, 0.999]}] * 4, HOSTS) == []


def test_a_difference_names_every_value_with_its_ranks_and_hosts() -> None:
    facts = [{"seed": 0, "lr": 0.1}, {"seed": 0, "lr": 0.1}, {"seed": 0, "lr": 0.1}, {"seed": 0, "lr": 0.2}]
    assert differences(facts, HOSTS) == ["lr: 0.1 on ranks 0-1 (host-a), rank 2 (host-b), 0.2 on rank 3 (host-b)"]


def test_what_a_rank_lacks_is_missing() -> None:
    facts = [{"train-0.tar": "70 samples"}, {}, {}, {}]
    assert differences(facts, HOSTS) == [
        "train-0.tar: 70 samples on rank 0 (host-a), missing on rank 1 (host-a), ranks 2-3 (host-b)"
    ]


def test_true_and_one_and_the_text_true_differ() -> None:
    assert len(differences([{"flag": True}, {"flag": 1}], HOSTS)) == 1


def test_ranks_on_the_same_device_share_a_line() -> None:
    nodes = [f"NVIDIA H100, 8 core(s) of NUMA node {node}" for node in (0, 1, 1)]
    world = World(0, 4, 0, 2, torch.device("cpu"), tuple(HOSTS), (nodes[0], *nodes))
    assert describe_devices(world) == [
        "ranks 0-1 (host-a) on NVIDIA H100, 8 core(s) of NUMA node 0",
        "ranks 2-3 (host-b) on NVIDIA H100, 8 core(s) of NUMA node 1",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_named_ranks_are_exactly_the_given_ones(seed: int) -> None:
    rng = random.Random(seed)
    hosts = [f"h{rank // 8}" for rank in range(32)]
    ranks = sorted(rng.sample(range(32), rng.randint(1, 32)))
    found = []
    for part in name_ranks(ranks, hosts).split(")")[:-1]:
        numbers, host = part.removeprefix(", ").split(" (")
        for run in numbers.removeprefix("ranks ").removeprefix("rank ").split(", "):
            first, _, last = run.partition("-")
            members = range(int(first), int(last or first) + 1)
            assert {hosts[rank] for rank in members} == {host}
            found += members
    assert found == ranks


def test_clocks_seconds_apart_are_not_worth_a_word() -> None:
    assert clocks_apart([100.0, 130.0, 90.0, 100.0], HOSTS) is None


def test_clocks_minutes_apart_are_named_with_the_faster_one_first() -> None:
    warning = clocks_apart([1000.0, 1000.0, 1000.0, 580.0], HOSTS)
    assert warning is not None
    assert "host-a is 420 s ahead of that of host-b" in warning


def test_every_key_of_the_configuration_is_compared_and_only_places_may_differ(tmp_path: Path) -> None:
    path = write_toy_config(tmp_path / "toy.yaml", tmp_path)
    facts = flat(load_config(path))
    assert {"optim.lr", "schedule.kind", "engine.zero_stage", "data.augment.crop", *PLACES} <= facts.keys()
    assert facts["train.duration"] == "24steps"
    assert differences([facts, flat(load_config(path, ["optim.lr=0.5"]))], HOSTS) == [
        "optim.lr: 0.005 on rank 0 (host-a), 0.5 on rank 1 (host-a)"
    ]


def test_of_lists_of_data_all_but_the_places_is_compared(tmp_path: Path) -> None:
    path = write_toy_config(tmp_path / "toy.yaml", tmp_path)

    def of(folder: str, weight: int) -> dict[str, Any]:
        sources = f"data.train=[{{name: a, folder: {folder}, weight: {weight}}}]"
        return compared(load_config(path, [sources, f"data.val=[{{name: v, folder: {folder}}}]"]))

    assert differences([of("here", 1), of("there", 1)], HOSTS) == []
    (told,) = differences([of("here", 1), of("here", 2)], HOSTS)
    assert told.startswith("data.train: [")
    assert compared(load_config(path)).keys().isdisjoint(PLACES)


def test_the_software_is_told_by_version_and_the_sources_by_a_digest() -> None:
    versions = software()
    assert versions == software()
    assert {"torch", "deepspeed", "Python", "this project's sources"} <= versions.keys()
    assert all(versions.values())


def test_a_file_in_a_folder_of_a_package_counts_as_a_source(tmp_path: Path) -> None:
    nested = tmp_path / "package" / "room" / "nested.py"
    nested.parent.mkdir(parents=True)
    (tmp_path / "package" / "top.py").write_text("1\n")
    nested.write_text("2\n")
    before = sources_digest([tmp_path / "package"])
    nested.write_text("3\n")
    assert sources_digest([tmp_path / "package"]) != before
    nested.rename(nested.with_name("renamed.py"))
    assert sources_digest([tmp_path / "package"]) != before


def test_a_source_in_a_room_has_another_digest_than_one_at_the_top(tmp_path: Path) -> None:
    digests = set()
    for place in ("a.py", "room/a.py", "other/a.py"):
        package = tmp_path / str(len(digests)) / "package"
        (package / place).parent.mkdir(parents=True)
        (package / place).write_text("1\n")
        digests.add(sources_digest([package]))
    assert len(digests) == 3
