"""A checkpoint for another number of ranks, through DeepSpeed's universal format."""

import argparse
import contextlib
import io
import shutil
from pathlib import Path

from engine.checkpoints.manifest import (
    DamagedError,
    file_facts,
    files_in,
    read_manifest,
    verify_manifest,
    write_manifest,
)

PREFIX = "universal-"


def universal_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """The universal form of ``checkpoint`` (ZeRO 1 to 3), made in ``folder`` unless it is there already.

    It appears under its name only when it is complete, with a manifest of its own. The files of ``checkpoint`` are
    unpickled: hold them against their manifest first. Work for one rank.

    Raises:
        OSError: it could not be written.
    """
    from deepspeed.checkpoint import ds_to_universal  # here, because it takes seconds

    source = read_manifest(checkpoint)
    target = folder / f"{PREFIX}{checkpoint.name}"
    if target.exists():
        with contextlib.suppress(DamagedError):
            if verify_manifest(target)["converted_from"] == source["digest"]:
                return target
        shutil.rmtree(target)
    scratch = folder / f".{target.name}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    converted = scratch / "converted"
    converted.mkdir(parents=True)
    arguments = argparse.Namespace(
        input_folder=str(checkpoint),
        output_folder=str(converted),
        num_extract_workers=1,  # more would fork this process, threads and all
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # the format's version number, which only Megatron's checkpoints carry
    )
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            ds_to_universal.main(arguments)
    except Exception as error:  # DeepSpeed and torch raise their own kinds, a full disk among them
        raise OSError(
            f"{checkpoint} was written by {source['world_size']} ranks and could not be converted for another number: "
            f"{str(error) or type(error).__name__}. It is untouched; is there room for a copy of it in {folder}?"
        ) from error
    facts = {"step": source["step"], "converted_from": source["digest"]}
    write_manifest(converted, facts, {name: file_facts(path, sync=True) for name, path in files_in(converted).items()})
    converted.rename(target)
    shutil.rmtree(scratch)
    return target


def remove_universal_checkpoints(folder: Path) -> None:
    """Delete all conversions in ``folder``, finished or not: they can be made again."""
    for pattern in (f"{PREFIX}step-*", f".{PREFIX}step-*.partial"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)
