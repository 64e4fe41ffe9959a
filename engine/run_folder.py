"""The run folder: what is there before the first step."""

from pathlib import Path

from engine.config import RunConfig, dump_config
from engine.monitor import TENSORBOARD_FOLDER, WANDB_FILE, WANDB_FOLDER
from pipeline.files import write_atomically

_OWN_ENTRIES = (
    *("config.yaml", "metrics.jsonl", "bad_samples.jsonl", "checkpoints", "summary.json", "model", "ranks"),
    *(TENSORBOARD_FOLDER, WANDB_FOLDER, WANDB_FILE),
)


def prepare_folder(folder: Path, config: RunConfig, *, fresh: bool) -> None:
    """Make the folder and write the resolved configuration into it.

    A fresh run finds no traces of an earlier one: what that left is moved into ``earlier-1``, ``earlier-2``, ... inside
    the folder, never deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [folder / name for name in _OWN_ENTRIES if (folder / name).exists()]
    if fresh and left:
        number = 1
        while (folder / f"earlier-{number}").exists():
            number += 1
        aside = folder / f"earlier-{number}"
        aside.mkdir()
        for entry in left:
            entry.rename(aside / entry.name)
    write_atomically(folder / "config.yaml", dump_config(config), sync=True)
