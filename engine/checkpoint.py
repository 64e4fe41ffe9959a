"""Checkpoints: what a run needs to go on as if it had not stopped.

The input side needs one number, the step, so a checkpoint is DeepSpeed's (weights, optimizer) and a small
``meta.json``. DeepSpeed unpickles its files when it loads them: load only checkpoints that you trust.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_full_fp32_param

from engine.config import RunConfig
from engine.ranks import World
from pipeline.shards import ShardIndex

_POINTER = "latest.json"
_META = "meta.json"


def identity(config: RunConfig, train_index: ShardIndex, world: World) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it, by configuration key."""
    values = config.model_dump(mode="json")
    model = {f"model.{key}": values["model"][key] for key in ("name", "options")}
    data = {
        f"data.{key}": values["data"][key]
        for key in ("image_size", "patch_size", "num_classes", "augment", "shuffle", "window_shards", "mean", "std")
    }
    return {
        **model,
        **data,
        "data.train (fingerprint)": train_index.fingerprint,
        "seed": values["seed"],
        "schedule": values["schedule"],
        "selection": values["selection"],
        "train.duration": values["train"]["duration"],
        "train.global_batch_size": values["train"]["global_batch_size"],
        "engine.zero_stage": values["engine"]["zero_stage"],
        "engine.precision": values["engine"]["precision"],
        "number of ranks": world.size,
    }


def save_checkpoint(
    engine: DeepSpeedEngine, folder: Path, step: int, meta: dict[str, Any], *, keep_last: int, world: World
) -> None:
    """Write a checkpoint of the state after ``step`` steps. Collective.

    It counts only once the pointer names it, which happens after every rank has written its part.
    """
    tag = f"step-{step:08d}"
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    dist.barrier()
    if world.is_first:
        _write_json(folder / tag / _META, {"step": step, "identity": meta})
        _write_json(folder / _POINTER, {"tag": tag})
        for old in sorted(folder.glob("step-*"))[:-keep_last]:
            shutil.rmtree(old)
    dist.barrier()


def find_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run folder's ``checkpoints``, or None."""
    pointer = folder / _POINTER
    if not pointer.exists():
        return None
    return folder / json.loads(pointer.read_text())["tag"]


def read_step(checkpoint: Path, expected: dict[str, Any]) -> int:
    """Steps trained before ``checkpoint``.

    Raises:
        ValueError: it belongs to another run: what differs, with both values.
        FileNotFoundError: it is no checkpoint.
    """
    try:
        meta = json.loads((checkpoint / _META).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{checkpoint} is not a checkpoint of this program: it holds no {_META}; give a folder such as "
            "runs/NAME/checkpoints/step-00000500"
        ) from None
    saved = meta["identity"]
    differences = [
        f"{key}: {saved.get(key)!r} there, {value!r} here" for key, value in expected.items() if saved.get(key) != value
    ]
    if differences:
        raise ValueError(
            f"the checkpoint {checkpoint} was made by another run ({'; '.join(differences)}); "
            "give another --out, or --resume never to start anew"
        )
    return int(meta["step"])


def load_checkpoint(engine: DeepSpeedEngine, checkpoint: Path) -> None:
    """Load weights and optimizer. Collective."""
    loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if loaded is None:
        raise FileNotFoundError(f"the checkpoint {checkpoint} is not complete: DeepSpeed found no state in it")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def full_weights(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Every parameter whole, float32 on the CPU, by name. Collective; each rank gets all of them."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        weights[name] = (parameter.detach() if whole is None else whole).float().cpu().clone()
    return weights


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over all parameters in name order: names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{list(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
