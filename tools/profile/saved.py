"""A profile as ``tools.profile --json`` left it, to predict from, and whether it may be used for a run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import RunConfig

_SIDES = ("loader", "step", "end_to_end")
# What may differ between a profile and a run that is predicted from it: none of it changes what a step costs. A key
# that is not here is taken to matter.
_NO_MATTER = (
    *("name", "seed", "schedule", "optim", "eval", "checkpoint", "monitor", "log_every", "train.duration"),
    *("train.label_smoothing", "data.val", "data.val_crop_fraction", "data.num_train_samples", "data.max_bad_share"),
    *("data.mean", "data.std", "data.augment.auto.magnitude"),
    *("model.pretrained", "model.pretrained_key", "model.reset_head", "model.head_init_std"),
    *("engine.stop_grace_s", "engine.stall_report_s"),
)
_WHAT_IT_IS = "python -m tools.profile --config ... --json FILE makes one"


@dataclass(frozen=True)
class SavedStage:
    """One stage that was measured. Seconds are of a training step, those of the first three repeat by repeat.

    Attributes:
        keep_rate: of ``num_kept`` patches.
        image_size, patch_size: sides in pixels.
        flops_per_image: of a training step, without a decoder's.
        loader_s, step_s, both_s: of the loader alone, the training step alone, and one feeding the other.
        forward_s, backward_s: parts of the training step; medians.
        exchange_s: of the training step, in which ranks exchange and no computation hides it; the median.
    """

    keep_rate: float
    num_kept: int
    image_size: int
    patch_size: int
    flops_per_image: int
    loader_s: tuple[float, ...]
    step_s: tuple[float, ...]
    both_s: tuple[float, ...]
    forward_s: float
    backward_s: float
    exchange_s: float


@dataclass(frozen=True)
class SavedProfile:
    """What was measured, of what, and where.

    Attributes:
        hardware: as ``engine.ranks.hardware.describe_hardware`` tells it.
        world_size: ranks, on all of ``hosts`` together.
        stages: fewest patches first.
    """

    path: Path
    config: RunConfig
    hardware: Mapping[str, Any]
    world_size: int
    hosts: int
    stages: list[SavedStage]

    @property
    def has_gpu(self) -> bool:
        return bool(self.hardware["gpus"])

    @property
    def machine(self) -> str:
        """Where it was measured, for people."""
        gpus = self.hardware["gpus"]
        ranks = f"{self.world_size} rank(s)" + (f" on {self.hosts} hosts" if self.hosts > 1 else "")
        return f"{', '.join(gpus) if gpus else self.hardware['cpu']}, {self.hardware['cores']} cores, {ranks}"

    def check_is_of(self, config: RunConfig, hosts: int = 1) -> None:
        """Whether it tells what a step of this run costs.

        Args:
            hosts: that the run will have; above 1, the profile is of one of them, with that one's share of the batch.

        Raises:
            ValueError: something that a step's cost depends on is another; the key and both values are named.
        """
        batch = config.train.global_batch_size
        if hosts > 1 < self.hosts:
            raise ValueError(
                f"{self.path} was measured on {self.hosts} hosts; from a profile of one of them --hosts tells the time "
                "of any number"
            )
        if batch % hosts:
            raise ValueError(f"train.global_batch_size {batch} cannot be shared by {hosts} hosts; choose a multiple")
        own = dict(_flat(config.model_dump(mode="json"))) | {"train.global_batch_size": batch // hosts}
        profiled = dict(_flat(self.config.model_dump(mode="json")))
        for key in sorted(own.keys() | profiled.keys()):
            if _matters(key) and own.get(key) != profiled.get(key):
                share = f" as one of {hosts} hosts' share" if hosts > 1 and key == "train.global_batch_size" else ""
                raise ValueError(
                    f"{self.path} was measured with {key} {profiled.get(key)}, and this run has {own.get(key)}{share}: "
                    "profile what you want predicted, or set the key to what was profiled"
                )

    def check_machine(self, here: Mapping[str, Any]) -> None:
        """Whether it was measured on a machine like this one.

        Args:
            here: as ``describe_hardware`` tells it.

        Raises:
            ValueError: processor, number of cores or GPUs are others; both are named.
        """
        # Beside a GPU a rank keeps to the cores near it, so the number of them says nothing.
        for name in ("cpu", "gpus") if self.has_gpu else ("cpu", "gpus", "cores"):
            if self.hardware[name] != here[name]:
                raise ValueError(
                    f"{self.path} was measured on another machine: its {name} is {self.hardware[name]}, here it is "
                    f"{here[name]}; ask on the machine that was profiled, or profile this one"
                )


def read_profile(path: Path) -> SavedProfile:
    """Read what ``tools.profile --json`` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, one of an earlier version, or one that measured a single side.
    """
    try:
        found = json.loads(path.read_text())
        stages = found["stages"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} is no profile; {_WHAT_IT_IS}") from None
    if "config" not in found:
        raise ValueError(f"{path} does not say what was profiled, as those of earlier versions; {_WHAT_IT_IS}")
    if any(stage[f"{side}_images_per_s"] is None for stage in stages for side in _SIDES):
        raise ValueError(
            f"{path} measured one side alone; a prediction needs the loader and the step: profile without "
            "--loader-only and --step-only"
        )
    try:
        config = RunConfig.model_validate(found["config"])
    except ValidationError:
        raise ValueError(f"{path} was made from a configuration that is none here; profile again") from None
    saved = [_stage(stage, config) for stage in stages]
    return SavedProfile(path, config, found["hardware"], found["world_size"], found["hosts"], saved)


def _stage(stage: Mapping[str, Any], config: RunConfig) -> SavedStage:
    batch, data = config.train.global_batch_size, config.data
    loader_s, step_s, both_s = (
        tuple(batch / rate for rate in stage[f"{side}_images_per_s_repeats"]) for side in _SIDES
    )
    forward_s, backward_s, exchange_s = (
        stage[f"{part}_ms"] / 1000 for part in ("forward", "backward", "communication")
    )
    return SavedStage(
        stage["keep_rate"],
        stage["num_kept"],
        # Earlier versions, which told no sizes, had none but data's.
        stage.get("image_size") or data.image_size,
        stage.get("patch_size") or data.patch_size,
        stage["flops_per_image"],
        loader_s,
        step_s,
        both_s,
        forward_s,
        backward_s,
        exchange_s,
    )


def _matters(key: str) -> bool:
    return not any(key == free or key.startswith(f"{free}.") for free in _NO_MATTER)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its place, such as ``train.loss``; lists are values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
