"""What makes a folder of files a checkpoint: a manifest of every file's size and SHA-256, written last.

Plain file work, without torch. A folder ``step-00000500`` counts once its ``manifest.json`` is there; until then it is
what an interrupted save left behind. The manifest carries a digest of itself, so a changed bit in any file, this one
included, is noticed.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import sync_folder, write_atomically

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_STEP_FOLDER = re.compile(r"^step-(\d{8,})$")


class DamagedError(ValueError):
    """A folder that cannot be taken as a checkpoint; the message says why."""


@dataclass(frozen=True)
class FileFacts:
    """What a file's content is known by."""

    num_bytes: int
    sha256: str


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoint folders in ``folder``, complete or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _STEP_FOLDER.match(entry.name)))


def file_facts(path: Path, *, sync: bool = False) -> FileFacts:
    """Size and hash of a file as it is on disk; with ``sync`` its content is also forced to the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return FileFacts(file.tell(), digest)


def files_in(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` but its manifest, by relative path."""
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): path for path in sorted(paths) if path != folder / MANIFEST}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all, whatever happens meanwhile, and survives a power cut."""
    write_atomically(path, _rendered(value), sync=True)


def write_manifest(folder: Path, facts: dict[str, Any], files: dict[str, FileFacts]) -> None:
    """Declare ``folder`` complete. The files' own contents must be on the disk already.

    Args:
        facts: what the manifest says beside the files, such as ``step`` and ``world_size``.
        files: by path relative to ``folder``.

    Raises:
        OSError: one of the files is not there at its full size as seen from this host, or the disk is full.
    """
    for name, expected in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != expected.num_bytes:
            seen = "is not to be seen" if found is None else f"has {found} bytes instead of {expected.num_bytes}"
            raise OSError(f"{path} {seen} from the first rank's host; the run folder must be shared by all hosts")
    for inner in {path.parent for path in files_in(folder).values()} | {folder}:
        sync_folder(inner)
    body = {"format": FORMAT_VERSION, **facts, "files": {name: asdict(files[name]) for name in sorted(files)}}
    write_json(folder / MANIFEST, {"digest": _digest(body), **body})
    sync_folder(folder.parent)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, itself checked but not held against the files.

    Raises:
        DamagedError: there is none, it cannot be read, or it is not as it was written.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"it has no {MANIFEST}: the save was interrupted") from None
    try:
        manifest = json.loads(text)
        body = {key: value for key, value in manifest.items() if key != "digest"}
        intact = manifest["digest"] == _digest(body) and _rendered(manifest).encode() == text
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamagedError(f"its {MANIFEST} is damaged")
    if manifest["format"] != FORMAT_VERSION:
        raise DamagedError(f"its {MANIFEST} has format {manifest['format']}, but this program reads {FORMAT_VERSION}")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Hold a checkpoint against its manifest, every byte of it; returns the manifest.

    Raises:
        DamagedError: what is missing, too much, of another size or of another content.
    """
    manifest = read_manifest(folder)
    expected: dict[str, dict[str, Any]] = manifest["files"]
    found = files_in(folder)
    for name in expected:
        if name not in found:
            raise DamagedError(f"its file {name} is missing")
    for name, path in found.items():
        if name not in expected:
            raise DamagedError(f"its file {name} is not in the manifest")
        if path.stat().st_size != expected[name]["num_bytes"]:
            raise DamagedError(
                f"its file {name} has {path.stat().st_size} bytes, but {expected[name]['num_bytes']} were written"
            )
    for name, path in found.items():
        if file_facts(path).sha256 != expected[name]["sha256"]:
            raise DamagedError(f"the content of its file {name} is not what was written (SHA-256 differs)")
    return manifest


def delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint, or what a save left; whatever interrupts this, no half of it is taken for a checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def has_manifest(folder: Path) -> bool:
    """Whether the folder was once declared complete."""
    return (folder / MANIFEST).exists()


def newest_valid(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint whose manifest holds, if any, and for each newer one why it was passed over."""
    passed_over: dict[Path, str] = {}
    for step in reversed(steps_in(folder)):
        checkpoint = step_folder(folder, step)
        try:
            verify_manifest(checkpoint)
        except (DamagedError, OSError) as reason:
            passed_over[checkpoint] = str(reason)
        else:
            return checkpoint, passed_over
    return None, passed_over


def superseded(steps: list[int], *, keep_last: int, keep_every: int | None) -> list[int]:
    """Which of the checkpoints at ``steps`` (ascending) may be deleted.

    The last ``keep_last`` stay, and with ``keep_every`` the first one at or after each multiple of that many steps.
    """
    assert keep_last >= 1
    assert steps == sorted(steps)
    milestones: dict[int, int] = {}
    for step in steps:
        if keep_every is not None and step >= keep_every:
            milestones.setdefault(step // keep_every, step)
    return [step for step in steps[:-keep_last] if step not in milestones.values()]


def _rendered(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
