"""A finished folder of shards into a store: indexes and ``dataset.json`` last, so that nothing half there counts."""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from pipeline.addresses import Address
from pipeline.shards.index import INDEX_SUFFIX
from pipeline.storage.errors import StoreGoneError
from pipeline.storage.patience import Patience
from pipeline.storage.stores import list_names, upload
from tools.command import bar_interval_s
from tools.shards.dataset import DATASET_NAME

_SENT = ".sent.jsonl"
_PATIENCE_S = 600.0


def publish(folder: Path, address: Address) -> None:
    """Send the files of a folder, but for hidden ones. What an earlier call has sent is not sent again.

    Raises:
        ValueError: the store cannot be written, or holds shards there that are none of these.
    """
    files = sorted((path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=_turn)
    record = folder / _SENT
    sent = _sent(record)
    check_is_free(address, {path.name for path in files}, may_hold_a_set=bool(sent))
    left = [path for path in files if sent.get(path.name) != _state(path)]
    with (
        record.open("a") as lines,
        tqdm(total=sum(path.stat().st_size for path in left), unit="B", unit_scale=True, desc="sent") as bar,
    ):
        bar.mininterval = bar_interval_s()
        for path in left:
            send(path, address.join(path.name))
            lines.write(json.dumps([path.name, _state(path)]) + "\n")
            lines.flush()
            bar.update(path.stat().st_size)


def check_is_free(address: Address, names: set[str], *, may_hold_a_set: bool) -> None:
    """Raise ValueError if a folder of a store holds tars other than ``names``, or a finished set."""
    there = list_names(address)
    if DATASET_NAME in there and not may_hold_a_set:
        raise ValueError(f"{address}: holds a finished set already; name another --out, or remove it")
    if foreign := [name for name in there if name.endswith(".tar") and name not in names]:
        raise ValueError(
            f"{address}: holds {foreign[0]} and {len(foreign) - 1} more tar(s) that are not of this set; name another "
            "--out, or remove them"
        )


def send(path: Path, address: Address) -> None:
    """Send a file, again and again while the store does not answer. Raises StoreError."""
    patience = Patience(_PATIENCE_S)
    while True:
        try:
            return upload(path, address)
        except StoreGoneError as error:
            if patience.is_over:
                raise
            print(f"{error}; trying again", file=sys.stderr)
            time.sleep(patience.next_pause_s())


def _turn(path: Path) -> tuple[bool, bool, str]:
    return path.name == DATASET_NAME, path.suffix == INDEX_SUFFIX, path.name


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sent(record: Path) -> dict[str, list[int]]:
    """What was sent, as it was then. A line that was cut short is of a file that is sent again."""
    found: dict[str, list[int]] = {}
    for line in record.read_text().splitlines() if record.exists() else []:
        try:
            name, state = json.loads(line)
        except ValueError:
            continue
        found[name] = state
    return found
