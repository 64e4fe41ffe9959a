"""What all ranks must agree on before the first step, and how a person hears of it where they do not.

Each check is collective. Every rank learns what all the others have, so all of them end with code 2, and the first one
prints a single line that names the ranks, their hosts and both values.
"""

import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch.distributed as dist

import engine
import pipeline
from engine.config import RunConfig
from engine.ranks.world import World, one_clear_error
from pipeline.installed import dali_build
from pipeline.program import sources_digest
from pipeline.shards.index import ShardIndex
from pipeline.sources import without_folders

# Packages whose version changes what is computed or how ranks talk to each other.
# DALI's build is one more.
PACKAGES = ("torch", "torchvision", "deepspeed", "timm", "numpy", "pillow", "pyarrow")

# The one part of a configuration that may differ: each host may hold the shards on a disk of its own.
PLACES = ("data.train", "data.val", "data.cache_folder")

# NFS clients believe for half a minute, by default, what they last saw of a folder.
VISIBLE_WITHIN_S = 45.0

CLOCKS_APART_S = 60.0

_MOST_DIFFERENCES = 5


def check_same_software(world: World) -> None:
    """Every rank runs the same program on the same versions of what it is made of. Collective.

    Raises:
        SystemExit: with code 2, on every rank.
    """
    versions: dict[str, str] = {}
    with one_clear_error(world):
        versions = software()
    _check_same(world, versions, "the ranks do not run the same software", "install the same on every host")


def software() -> dict[str, str]:
    """Versions by package; this project's own sources by a digest, since a working copy has no version.

    Raises what ``dali_build`` raises.
    """
    return {
        "this project's sources": sources_digest([Path(engine.__file__).parent, Path(pipeline.__file__).parent])[:12],
        "Python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, dali_build())},
    }


def check_same_inputs(
    world: World,
    config: RunConfig,
    indexes: Mapping[str, ShardIndex],
    *,
    stop_step: int,
    maps: Mapping[str, str] | None = None,
    anchor: str | None = None,
) -> None:
    """Every rank has the same configuration, the same data and the same end of the run. Collective.

    Args:
        indexes: what the run reads, by the name of the configuration's key.
        stop_step: where the command line ends the run.
        maps: fingerprints of the score maps beside the data, by the same names; None where none are looked at.
        anchor: the fingerprint of what weights are held to; None without ``train.anchor``.

    Raises:
        SystemExit: with code 2, on every rank.
    """
    facts = compared(config)
    facts["last step"] = stop_step
    problem = "the ranks were started with different configurations"
    _check_same(world, facts, problem, "start every host with the same file and arguments")
    for key, index in indexes.items():
        fingerprint = {"fingerprint": index.fingerprint}
        if differences(_gather(world, fingerprint), world.hosts):
            # Only now, because the shards of a large set make a long list.
            files = index.files.shards
            shards = {shard.name: f"{shard.num_samples} samples, digest {shard.digest[:12]}" for shard in files}
            problem = f"{key} ({index.place}) does not hold the same {index.split} shards everywhere"
            _check_same(world, fingerprint | shards, problem, "copy the shards and their index from one host to all")
    if maps:
        facts = {f"score maps of {key}": fingerprint for key, fingerprint in maps.items()}
        problem = f"the score maps {config.selection.map} are not the same everywhere"
        _check_same(world, facts, problem, f"copy the files *.{config.selection.map}.map from one host to all")
    if anchor is not None:
        problem = "the weights that train.anchor holds to, or their Fisher information, are not the same everywhere"
        remedy = "copy the files of model.pretrained and train.anchor.fisher from one host to all"
        _check_same(world, {"train.anchor": anchor}, problem, remedy)


def compared(config: RunConfig) -> dict[str, Any]:
    """What must be the same everywhere of a configuration, by dotted key: all but where data lie."""
    values = flat(config)
    lists = {key: without_folders(values[key]) for key in PLACES if isinstance(values[key], list)}
    return {**{key: value for key, value in values.items() if key not in PLACES}, **lists}


def flat(config: RunConfig) -> dict[str, Any]:
    """The configuration as one level of dotted keys."""

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    return walk(config.model_dump(mode="json"), "")


def check_same_run_folder(world: World, folder: Path) -> None:
    """The run folder is one folder, which every host sees. Collective.

    The first rank makes it if need be, and a file in it that all must see. A folder that was made for this alone is
    taken away again where the check fails.

    Raises:
        SystemExit: with code 2, on every rank.
    """
    if world.size == 1:
        return
    token = folder / f".{_from_first(world, secrets.token_hex(8))}.shared"
    made = world.is_first and not folder.exists()
    try:
        with one_clear_error(world):
            if world.is_first:
                folder.mkdir(parents=True, exist_ok=True)
                token.touch()
        with one_clear_error(world):
            if not _appears(token, VISIBLE_WITHIN_S):
                raise FileNotFoundError(
                    f"the run folder {folder.absolute()} is not the one that {world.name(0)} writes to: a new file "
                    f"there was not seen here within {VISIBLE_WITHIN_S:g} s. All hosts must share the run folder, for "
                    "checkpoints are written by all of them; name a shared one with --out"
                )
        made = False
    finally:
        if world.is_first:
            with suppress(OSError):  # a folder that cannot be written is what the error is about
                token.unlink(missing_ok=True)
                if made and folder.exists():
                    folder.rmdir()


def check_same_start(world: World, checkpoint: Path | None, first_step: int) -> None:
    """Every rank goes on from the same step, and can read the checkpoint. Collective.

    Raises:
        SystemExit: with code 2, on every rank.
    """
    with one_clear_error(world):
        if checkpoint is not None and not _appears(checkpoint, VISIBLE_WITHIN_S):
            raise FileNotFoundError(
                f"the checkpoint {checkpoint.absolute()} is not to be seen here; every host reads it, so put it into a "
                "folder that all hosts share"
            )
    problem = "the ranks would go on from different steps"
    _check_same(world, {"steps done": first_step}, problem, "start every host with the same file and arguments")


def warn_of_clocks(world: World) -> None:
    """Say so, and go on, where the hosts' clocks are far apart: nothing compares them, but logs get hard to read."""
    dist.barrier()
    text = clocks_apart([now["now"] for now in _gather(world, {"now": time.time()})], world.hosts)
    if text and world.is_first:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def clocks_apart(times: Sequence[float], hosts: Sequence[str]) -> str | None:
    """What to say of clocks that were read at the same moment, in seconds; None where they are close enough."""
    behind = min(range(len(times)), key=times.__getitem__)
    ahead = max(range(len(times)), key=times.__getitem__)
    apart_s = times[ahead] - times[behind]
    if apart_s < CLOCKS_APART_S:
        return None
    return (
        f"the clock of {hosts[ahead]} is {apart_s:.0f} s ahead of that of {hosts[behind]}. The run does not mind, but "
        "times in its records will not fit together; is a time service (NTP) running on every host?"
    )


def differences(facts: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> list[str]:
    """Where ranks differ, a line for each key: every value with the ranks that have it.

    Args:
        facts: values by key, of every rank in rank order.
        hosts: the host of every rank.
    """
    lines = []
    for key in dict.fromkeys(key for rank_facts in facts for key in rank_facts):
        ranks_of: dict[str, list[int]] = {}
        for rank, rank_facts in enumerate(facts):
            shown = _shown(rank_facts[key]) if key in rank_facts else "missing"
            ranks_of.setdefault(shown, []).append(rank)
        if len(ranks_of) > 1:
            lines.append(f"{key}: " + ", ".join(f"{v} on {name_ranks(ranks, hosts)}" for v, ranks in ranks_of.items()))
    return lines


def name_ranks(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Ranks by host, ascending: ``rank 0 (host-a), ranks 2-4, 6 (host-b)``."""
    by_host: dict[str, list[int]] = {}
    for rank in sorted(ranks):
        by_host.setdefault(hosts[rank], []).append(rank)
    parts = []
    for host, members in by_host.items():
        runs = [[rank for _, rank in run] for _, run in groupby(enumerate(members), lambda pair: pair[1] - pair[0])]
        numbers = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        parts.append(f"rank{'s' if len(members) > 1 else ''} {numbers} ({host})")
    return ", ".join(parts)


def describe_devices(world: World) -> list[str]:
    """What the ranks compute on: a line for each kind of device and share of cores, with the ranks that have it."""
    ranks_of: dict[str, list[int]] = {}
    for rank, text in enumerate(world.devices):
        ranks_of.setdefault(text, []).append(rank)
    return [f"{name_ranks(ranks, world.hosts)} on {text}" for text, ranks in ranks_of.items()]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _check_same(world: World, facts: Mapping[str, Any], problem: str, remedy: str) -> None:
    found = differences(_gather(world, facts), world.hosts)
    with one_clear_error(world):
        if found:
            more = len(found) - _MOST_DIFFERENCES
            rest = f"; and {more} more" if more > 0 else ""
            raise ValueError(f"{problem}; {remedy}: {'; '.join(found[:_MOST_DIFFERENCES])}{rest}")


def _gather(world: World, mine: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    all_facts: list[Any] = [None] * world.size
    dist.all_gather_object(all_facts, mine)
    return all_facts


def _from_first(world: World, value: str) -> str:
    values = [value if world.is_first else ""]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _appears(path: Path, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while True:
        if path.parent.is_dir():
            os.listdir(path.parent)  # makes a network file system look again
        if path.exists():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.25)
