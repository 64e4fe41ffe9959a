"""Which runs the acceptance makes, and with what configuration. Loads nothing that is slow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.acceptance.sizes import Size

NUM_CLASSES = 10  # of the photographs that benchmarks.photographs draws


class SmokeRun(NamedTuple):
    """One combination that has to train.

    Attributes:
        precision, zero_stage: of ``engine``. device: of ``data``. rule: of ``selection``.
    """

    precision: str
    zero_stage: int
    device: str
    rule: str

    @property
    def name(self) -> str:
        return f"{self.precision}-zero{self.zero_stage}-{self.device}-{self.rule}"

    @property
    def settings(self) -> list[str]:
        """For ``--set``."""
        return [
            f"engine.precision={self.precision}",
            f"engine.zero_stage={self.zero_stage}",
            f"data.device={self.device}",
            f"selection.rule={self.rule}",
        ]


# Every value meets every value of the other columns at least once; each bf16 that is compared with float32 sees the
# same images and patches as a run of float32 does.
RUNS = (
    SmokeRun("fp32", 0, "cpu", "random"),
    SmokeRun("bf16", 0, "cpu", "random"),
    SmokeRun("bf16", 1, "cpu", "random"),
    SmokeRun("bf16", 2, "cpu", "random"),
    SmokeRun("fp32", 1, "gpu", "contrast"),
    SmokeRun("bf16", 0, "gpu", "contrast"),
    SmokeRun("fp32", 2, "gpu", "magnitude"),
    SmokeRun("bf16", 1, "gpu", "magnitude"),
    SmokeRun("bf16", 2, "cpu", "contrast"),
    SmokeRun("fp32", 0, "cpu", "magnitude"),
    SmokeRun("bf16", 0, "gpu", "random"),
)
# These are stopped half-way and go on, beside one that runs through.
RESUMED = (
    SmokeRun("bf16", 1, "gpu", "magnitude"),
    SmokeRun("bf16", 0, "cpu", "random"),
    SmokeRun("fp32", 0, "gpu", "contrast"),
)


class Task(NamedTuple):
    """One run through all of its steps; ``in_two``: and beside it one that is stopped half-way and goes on."""

    run: SmokeRun
    in_two: bool = False

    @property
    def name(self) -> str:
        return f"{self.run.name}-in-two" if self.in_two else self.run.name


ALL_TASKS = (*(Task(run) for run in RUNS), *(Task(run, in_two=True) for run in RESUMED))


def tasks_of(size: Size, *, on_gpu: bool) -> tuple[list[Task], list[Task]]:
    """What is to be run here, and what needs a GPU that is not here."""
    able = [task for task in ALL_TASKS if on_gpu or task.run.device == "cpu"]
    through = [task for task in able if not task.in_two][: size.num_runs]
    in_two = [task for task in able if task.in_two][: size.num_resumed]
    return [*through, *in_two], [task for task in ALL_TASKS if task not in able]


def lanes_of(tasks: Sequence[Task], num_lanes: int) -> list[list[Task]]:
    """Tasks dealt out to processes that work side by side; those that take longest, the last ones, to different."""
    return [list(lane) for number in range(num_lanes) if (lane := tasks[number::num_lanes])]


def thread_counts(wanted: Sequence[int], cores: int) -> list[int]:
    """Of the wanted numbers of threads those that the cores allow, and all cores where one was beyond them."""
    return sorted({min(count, cores) for count in wanted})


def config_of(
    photographs: Path, size: Size, *, name: str, options: dict[str, Any], batch_size: int, num_classes: int
) -> dict[str, Any]:
    """A run's configuration as YAML has it: a small ViT on these shards, every keep rate from 0.2 to 1.

    Args:
        name, options: of the model, for timm.
    """
    return {
        "name": "acceptance",
        "data": {
            "train": str(photographs),
            "val": str(photographs),
            "num_classes": num_classes,
            **size.data,
            "augment": {"crop": "resized", "scale": [0.35, 1.0]},
        },
        "schedule": {"kind": "linear", "keep_rate": [0.2, 1.0], "rounding": 0.2},
        "model": {"name": name, "options": options},
        "train": {"duration": f"{size.num_steps}steps", "global_batch_size": batch_size},
        "optim": {"lr": 1.0e-3, "warmup": f"{size.num_steps // 10}steps"},
        "eval": {"keep_rates": [0.4], "micro_batch_size": batch_size},
        "log_every": 1,
    }


def smoke_config(photographs: Path, size: Size) -> dict[str, Any]:
    """The configuration that all smoke runs share."""
    return config_of(
        photographs,
        size,
        name="vit_tiny_patch16_224",
        options=dict(size.model),
        batch_size=size.batch_size,
        num_classes=NUM_CLASSES,
    )


def write_config(config: dict[str, Any], path: Path) -> Path:
    """A configuration as a file."""
    path.write_text(yaml.safe_dump(config))
    return path
