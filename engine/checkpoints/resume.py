"""Where a run goes on: which checkpoint is taken up, and whether it is one of this run."""

import difflib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checkpoints.elastic import universal_checkpoint
from engine.checkpoints.manifest import (
    DamagedError,
    delete_checkpoint,
    has_manifest,
    newest_valid,
    read_manifest,
    step_folder,
    steps_in,
    verify_manifest,
)
from engine.config import RunConfig
from engine.run_plan import trains_under_autocast
from pipeline.files import user_path
from pipeline.operations import levels_of
from pipeline.shards.index import ShardIndex
from pipeline.sources import without_folders

SET_ASIDE = "set-aside"
# How bf16 computes at ZeRO 0, where earlier versions had bfloat16 weights and others beside them in float32.
SCHEME_KEY, SCHEME = "engine.precision.scheme", "float32 weights, autocast to bfloat16"
# What DeepSpeed's files are made for: no permission makes them fit another model, precision or division.
FIXED_KEYS = (
    *("model.name", "model.options", "data.image_size", "data.patch_size", "data.num_classes"),
    *("optim.layer_decay", "engine.zero_stage", "engine.precision", SCHEME_KEY),
    *("task", "pretrain.decoder_dim", "pretrain.decoder_depth", "pretrain.decoder_heads"),
)
# What a run may change on its way: where things lie, how the work is divided and done, what is looked at meanwhile.
# Everything else in the configuration decides the result; a key that is new there does until it is named here.
NOT_DECIDING = (
    *("name", "log_every"),
    *("data.train", "data.val", "data.num_train_samples", "data.val_crop_fraction", "data.cache"),
    *("data.cache_folder", "data.cache_max_bytes", "data.remote_patience_s"),
    *("data.num_threads", "data.prefetch_batches", "data.on_bad_sample", "data.max_bad_share"),
    *("model.pretrained", "model.pretrained_key"),
    *("train.micro_batch_size", "train.tokens_per_micro_batch"),
    *("engine.checkpoint_activations", "engine.compile", "engine.tf32", "engine.num_threads"),
    *("engine.stop_grace_s", "engine.stall_report_s"),
    *("eval.every", "eval.keep_rates", "eval.micro_batch_size"),
    *("checkpoint.every", "checkpoint.keep_last", "checkpoint.keep_every"),
    *("monitor.tensorboard", "monitor.wandb"),
)
_WHOLE_SECTIONS = ("schedule", "selection")  # of the others, each key is compared by itself


@dataclass(frozen=True)
class Start:
    """Where the run starts.

    Attributes:
        checkpoint: what DeepSpeed loads, None for a fresh run. Its hashes were checked.
        is_universal: whether that is a conversion from another number of ranks.
        step: steps trained before.
        notes: lines for the person who started the run.
        converted_from: the checkpoint that a conversion was made of, else None.
    """

    checkpoint: Path | None = None
    is_universal: bool = False
    step: int = 0
    notes: list[str] = field(default_factory=list)
    converted_from: Path | None = None

    @property
    def source(self) -> Path | None:
        """The checkpoint as it was written, other states beside DeepSpeed's included; None for a fresh run."""
        return self.converted_from or self.checkpoint


def identity(
    config: RunConfig,
    train_index: ShardIndex,
    map_fingerprint: str | None = None,
    anchor_fingerprint: str | None = None,
) -> dict[str, Any]:
    """What decides the result of training, by configuration key. How the work is divided over ranks does not.

    The training data is known by its fingerprint, the route by the one that is taken, and what automatic augmentation
    draws from by the list of operations.

    Args:
        map_fingerprint: of the score maps of the training data, where the selection looks at some.
        anchor_fingerprint: of what weights are held to, with ``train.anchor``.
    """
    values: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict) and name not in _WHOLE_SECTIONS:
            values |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            values[name] = value
    # What is not set is not recorded, as in checkpoints from before there were such keys.
    unset = (("selection", "map"), ("schedule", "examples"), ("schedule", "image_size"), ("schedule", "patch_size"))
    for section, key in unset:
        if values[section][key] is None:
            del values[section][key]
    for key in ("levels", "growth"):
        if not getattr(config.data, key):
            del values[f"data.{key}"]
    if config.optim.decay_over == "steps":
        del values["optim.decay_over"]
    if config.train.anchor is None:
        del values["train.anchor"]
    else:
        values["train.anchor"] = {"strength": config.train.anchor.strength}  # the rest is told by a fingerprint
    if isinstance(config.data.train, tuple):
        values["data.train.sources"] = without_folders(values["data.train"])
    else:
        del values["data.mix_per"]
    deciding = {key: value for key, value in values.items() if key not in NOT_DECIDING}
    drawn_from = {} if config.data.augment.auto is None else {"data.augment.operations": operations_of(config)}
    return {
        **deciding,
        **drawn_from,
        **({SCHEME_KEY: SCHEME} if trains_under_autocast(config) else {}),
        "data.route": config.route,
        "data.train.fingerprint": train_index.fingerprint,
        **({} if map_fingerprint is None else {"selection.map.fingerprint": map_fingerprint}),
        **({} if anchor_fingerprint is None else {"train.anchor.fingerprint": anchor_fingerprint}),
    }


def operations_of(config: RunConfig) -> list[str]:
    """The operations that automatic augmentation draws from, in the order in which they are counted."""
    auto = config.data.augment.auto
    return [] if auto is None else list(levels_of(auto.kind, increasing=auto.increasing))


def check_allowed_keys(allowed: Collection[str], this_run: dict[str, Any]) -> None:
    """Raise ValueError if a key given to --allow-change is none, or one whose change nothing could make good."""
    for key in allowed:
        if key not in this_run:
            near = difflib.get_close_matches(key, this_run, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it takes one of {', '.join(this_run)}"
            raise ValueError(f"--allow-change {key}: no such key; {hint}")
        if key in FIXED_KEYS:
            raise ValueError(f"--allow-change {key}: a checkpoint cannot be loaded once this has changed")


def check_same_run(
    checkpoint: Path, saved: dict[str, Any], this_run: dict[str, Any], allowed: Collection[str]
) -> list[str]:
    """Lines about the differences that are allowed.

    Raises:
        ValueError: there are others: each key, with both values.
    """
    same = "engine.precision", "engine.zero_stage"
    if SCHEME_KEY in this_run and SCHEME_KEY not in saved and all(saved.get(key) == this_run[key] for key in same):
        raise ValueError(
            f"the checkpoint {checkpoint} was written by a version whose engine.precision bf16 kept bfloat16 weights "
            f"at engine.zero_stage 0; now it is {SCHEME}, which cannot load that. Go on with the version that wrote "
            "it, or give another --out, or --resume never to start anew"
        )
    absent = "(not recorded)"
    differences = {
        key: f"{key}: {saved.get(key, absent)!r} there, {this_run.get(key, absent)!r} here"
        for key in {**this_run, **saved}
        if saved.get(key, absent) != this_run.get(key, absent)
    }
    refused = [text for key, text in differences.items() if key not in allowed]
    if refused:
        keys = [key for key in differences if key not in allowed]
        remedy = "give another --out, or --resume never to start anew"
        if not set(keys) & set(FIXED_KEYS):
            flags = " ".join(f"--allow-change {key}" for key in keys)
            remedy += f", or {flags} to go on with the new value{'s' if len(keys) > 1 else ''}"
        raise ValueError(f"the checkpoint {checkpoint} was made by another run ({'; '.join(refused)}); {remedy}")
    return [f"changed since the checkpoint, as allowed: {text}" for text in differences.values()]


def check_resume(resume: str) -> None:
    """Raise FileNotFoundError if ``--resume`` names a path, and no whole checkpoint is there."""
    if resume not in ("auto", "never") and not has_manifest(user_path(resume)):
        raise FileNotFoundError(
            f"{user_path(resume)} is not a checkpoint of this program, or its save was interrupted: it holds no "
            "manifest.json; give a folder such as runs/NAME/checkpoints/step-00000500"
        )


def choose_start(
    resume: str, folder: Path, this_run: dict[str, Any], *, allowed: Collection[str], stop_step: int, world_size: int
) -> Start:
    """Look for a checkpoint, hold it against its manifest and this run, and convert it where it must be. For one rank.

    Args:
        resume: ``auto`` (the newest in ``folder`` whose manifest holds), ``never``, or the path of a checkpoint.
        folder: the run's folder of checkpoints.

    Raises:
        ValueError: no checkpoint of ``folder`` can be taken up though there are some, the named one is damaged or none,
            it belongs to another run, or it is past ``stop_step``.
        OSError: the conversion could not be written.
    """
    notes: list[str] = []
    if resume == "never":
        return Start()
    if resume == "auto":
        checkpoint, passed_over = newest_valid(folder)
        notes = [f"passed over {path}: {reason}" for path, reason in passed_over.items()]
        if checkpoint is None:
            if any(has_manifest(path) for path in passed_over):
                raise ValueError(
                    f"none of the checkpoints in {folder} can be taken up ({'; '.join(notes)}); bring a good copy of "
                    "one back, or give --resume never to start anew"
                )
            return Start(notes=notes)
    else:
        check_resume(resume)
        checkpoint = user_path(resume)
    try:
        manifest = read_manifest(checkpoint) if resume == "auto" else verify_manifest(checkpoint)
        saved = manifest["identity"]
    except DamagedError as reason:
        raise ValueError(f"the checkpoint {checkpoint} cannot be taken up: {reason}; give another") from None
    except KeyError:
        raise ValueError(
            f"{checkpoint} is a conversion, not a checkpoint; name the one it was made from, which is converted anew"
        ) from None
    notes += check_same_run(checkpoint, saved, this_run, allowed)
    step, saved_ranks = int(manifest["step"]), int(manifest["world_size"])
    if step > stop_step:
        raise ValueError(
            f"the checkpoint {checkpoint} is at step {step}, past the end of this run at step {stop_step}; "
            "give a larger --max-steps or train.duration, or --resume never to start anew"
        )
    notes.append(f"going on from {checkpoint} at step {step}")
    if saved_ranks == world_size:
        return Start(checkpoint, False, step, notes)
    notes[-1] += f", written by {saved_ranks} rank(s)"
    if this_run["engine.zero_stage"] == 0:  # every rank has the whole state
        return Start(checkpoint, False, step, notes)
    return Start(universal_checkpoint(checkpoint, folder), True, step, notes, converted_from=checkpoint)


def recorded_identity(resume: str, folder: Path) -> dict[str, Any]:
    """The identity of the run that would be gone on with, as far as a manifest tells it; empty for a fresh run."""
    return recorded_manifest(resume, folder).get("identity", {})


def recorded_manifest(resume: str, folder: Path) -> dict[str, Any]:
    """The manifest of the checkpoint that would be gone on from, as far as there is one; empty for a fresh run.

    Nothing is held against the manifest's digests of files: ``choose_start`` has the last word.

    Args:
        resume, folder: as for ``choose_start``.
    """
    if resume == "never":
        return {}
    checkpoints = [step_folder(folder, step) for step in reversed(steps_in(folder))]
    for checkpoint in checkpoints if resume == "auto" else [user_path(resume)]:
        with suppress(DamagedError, OSError):
            if "identity" in (manifest := read_manifest(checkpoint)):
                return manifest
    return {}


def set_aside_newer(folder: Path, step: int) -> list[str]:
    """Clear the way past ``step`` for a run that goes on from there; lines about what was moved.

    Checkpoints past it are damaged, or belong to a course that is not followed any further; resuming must not come upon
    them later. What interrupted saves left is deleted.
    """
    moved = []
    for newer in [step_folder(folder, number) for number in steps_in(folder) if number > step]:
        if not has_manifest(newer):
            delete_checkpoint(newer)
            continue
        aside, number = folder / SET_ASIDE / newer.name, 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{newer.name}-{number}")
        aside.parent.mkdir(exist_ok=True)
        newer.rename(aside)
        moved.append(f"{newer} is past step {step} and was moved to {aside}")
    return moved
