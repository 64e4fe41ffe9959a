"""``convert`` and ``index`` where the shards lie, or are to lie, in a store; elsewhere they are what they are."""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipeline.addresses import Address
from pipeline.shards.splits import group_paths
from pipeline.storage.stores import list_names
from tools.shards import commands
from tools.shards.conversion.command import run_convert as convert_into_folder
from tools.shards.stores.headers import fetch_headers
from tools.shards.stores.publish import check_is_free, publish, send

_CONNECTIONS = 16


def run_convert(options: argparse.Namespace) -> int:
    """Writes shards from a source into a folder, or there and from there into a store."""
    if isinstance(options.out, Path):
        return convert_into_folder(options)
    address: Address = options.out
    if options.levels is not None:
        raise ValueError(f"levels are read from a disk, but --out is {address}; leave --levels out")
    for name in ("part", "ray"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name} needs a folder that all machines see, but --out is {address}; convert into one and copy it"
            )
    digest = hashlib.sha256(address.text.encode()).hexdigest()[:16]
    folder: Path = options.staging / f"{address.text.rpartition('/')[2]}-{digest}"
    if not folder.exists():
        check_is_free(address, set(), may_hold_a_set=False)
    code = convert_into_folder(argparse.Namespace(**{**vars(options), "out": folder}))
    if code:
        return code
    publish(folder, address)
    shutil.rmtree(folder)
    print(f"for data.train and data.val the shards are now in {address}", file=sys.stderr)
    return 0


def run_index(options: argparse.Namespace) -> int:
    """Indexes tars in a folder, or in a store by ranges of them, and writes the index there."""
    if isinstance(options.folder, Path):
        return commands.run_index(options)
    address: Address = options.folder
    for name in ("out", "check"):
        if getattr(options, name):
            raise ValueError(f"--{name} needs the tars on a disk, but they are in {address}; leave it out")
    names = _names_to_index(address, options.split, options.pattern)
    members = commands.members_to_index(options)
    with tempfile.TemporaryDirectory(prefix="headers-") as temporary, ThreadPoolExecutor(_CONNECTIONS) as pool:
        folder = Path(temporary)
        asked = list(pool.map(partial(_fetch, address, folder, members), names))
        code = commands.run_index(argparse.Namespace(**{**vars(options), "folder": folder}))
        if code:
            return code
        made = [path for path in folder.iterdir() if path.suffix != ".tar"]
        for path in sorted(made, key=lambda one: (one.suffix == ".index", one.name)):
            send(path, address.join(path.name))
    print(f"read {sum(asked) / 1e6:,.1f} MB of {len(names)} tars; the index is now in {address}", file=sys.stderr)
    return 0


def _fetch(address: Address, folder: Path, members: commands.Members, name: str) -> int:
    return fetch_headers(address.join(name), folder / name, members)


def _names_to_index(address: Address, split: str | None, pattern: str | None) -> Sequence[str]:
    """The tars of a folder of a store that are asked for."""
    if pattern is not None and "/" in pattern:
        raise ValueError(f"--pattern {pattern} selects tars directly in {address}; leave the folder out of it")
    names = [Path(name) for name in list_names(address) if name.endswith(".tar") and not name.startswith(".")]
    if pattern is not None:
        names = [name for name in names if name.match(pattern)]
    elif split is None:
        group_paths(names, address)
    if not names:
        raise FileNotFoundError(f"{address}: no tar {'here' if pattern is None else pattern}")
    return [name.name for name in names]
