"""Every field of ``metrics.jsonl``: its event, unit and meaning, and how that of a train line is computed.

    python -m engine.metrics_table > docs/metrics.md

A further figure of a train line is one entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config import StrengthName

if TYPE_CHECKING:  # whoever only reads metrics needs no torch
    from engine.config import RunConfig
    from pipeline.batch import Batch

EVENTS = {
    "train": "About one step, at the latest every `log_every` steps, and wherever the schedule's stage changes, a "
    "validation or a checkpoint follows, or training ends. Times and rates are means over the steps since the line "
    "before, of the first rank; validations and checkpoints are not in them. The first line after a start also holds "
    "what comes before its first step.",
    "eval": "One validation at one keep rate, over a whole validation set; of several sets the first comes first.",
    "checkpoint": "One checkpoint that has come to count; written when the training loop learns of it.",
    "examples": "One epoch that leaves examples out by their scores (`schedule.examples`), written where it begins: "
    "what is known of the samples there.",
    "store": "What came from the stores that shards lie in, on all ranks, since the line before, of training and "
    "validation; written with each line about a step where any do.",
}
BEFORE_A_STEP = ("train", "examples", "store")  # the others are about the weights after ``step`` steps


@dataclass(frozen=True)
class Interval:
    """A step's mean share of the seconds since the last line of metrics, on this rank, and what was read meanwhile.

    Attributes:
        num_steps: over how many steps.
        loader_wait_s: of ``step_s``, waiting for the loader.
        cpu_s: processor time of all threads.
        device_busy_s, device_idle_s: by the training device's own clock, see their lines below.
        bytes_read_per_image, pages_read_per_image: means over the images, see ``Batch.bytes_read``.
    """

    num_steps: int
    step_s: float
    loader_wait_s: float
    cpu_s: float
    device_busy_s: float
    device_idle_s: float
    bytes_read_per_image: float
    pages_read_per_image: float


@dataclass(frozen=True)
class StepFacts:
    """What a train line is computed from.

    Attributes:
        loss: mean over the global batch.
        grad_norm: of the whole gradient before clipping; None where it was not measured.
        batch: the step's last micro batch on this rank.
        optimizer: torch's, or DeepSpeed's around it.
        bad_samples: rows of the interval that could not be used, on all ranks.
        source_rows: rows of the interval, on all ranks, by the name of their source; None where there is only one.
        anchor_penalty: of ``train.anchor`` before the step's update; None without it.
    """

    step: int
    loss: float
    grad_norm: float | None
    batch: "Batch"
    interval: Interval
    optimizer: Any
    config: "RunConfig"
    bad_samples: int
    source_rows: dict[str, int] | None = None
    anchor_penalty: float | None = None


@dataclass(frozen=True)
class Metric:
    """A field of a line.

    Attributes:
        of_step: its value in a train line; None for those of the other events.
        only: when it is there, empty for always. A train line is without it where its value is None.
    """

    event: str
    name: str
    unit: str
    meaning: str
    of_step: Callable[[StepFacts], Any] | None = None
    only: str = ""


def _strength(name: StrengthName, what: str, key: str) -> Metric:
    """The field of a strength of augmentation, which is there where the key holds a schedule."""
    return Metric(
        "train",
        name,
        "",
        f"{what} in the step",
        lambda facts: facts.batch.plan.stage.strengths.get(name),
        f"{key}.kind",
    )


METRICS = (
    Metric("train", "event", "", "`train`", lambda facts: "train"),
    Metric("train", "step", "", "the step, counted from 0 over the whole run", lambda facts: facts.step),
    Metric("train", "epoch", "", "the epoch that the step is in, from 0", lambda facts: facts.batch.plan.epoch),
    Metric(
        "train",
        "loss",
        "",
        "mean training loss of the step's global batch, as it is trained on: with `schedule.examples` by rule `loss`, "
        "of losses that are weighted",
        lambda facts: facts.loss,
    ),
    Metric(
        "train",
        "lr",
        "",
        "learning rate of the step, the largest of the parameter groups",
        lambda facts: max(group["lr"] for group in facts.optimizer.param_groups),
    ),
    Metric(
        "train",
        "grad_norm",
        "",
        "L2 norm of the whole gradient before clipping; null where it is not measured",
        lambda facts: facts.grad_norm,
    ),
    Metric(
        "train",
        "keep_rate",
        "share of 1",
        "share of the patches that the schedule keeps in the step",
        lambda facts: facts.batch.plan.stage.keep_rate,
    ),
    Metric(
        "train",
        "num_kept",
        "patches",
        "patches kept of each image",
        lambda facts: facts.batch.plan.stage.num_kept,
    ),
    Metric(
        "train",
        "image_size",
        "pixels",
        "side of the images of the step",
        lambda facts: facts.batch.plan.stage.image_size,
    ),
    Metric(
        "train",
        "patch_size",
        "pixels",
        "side of a patch of the step",
        lambda facts: facts.batch.plan.stage.patch_size,
    ),
    _strength("magnitude", "RandAugment's magnitude", "data.augment.auto.magnitude"),
    _strength("mixup", "alpha of mixup", "data.augment.mixup"),
    _strength("cutmix", "alpha of cutmix", "data.augment.cutmix"),
    Metric(
        "train",
        "micro_batch_size",
        "images",
        "images in a forward pass on one rank",
        lambda facts: facts.batch.num_images,
    ),
    Metric("train", "step_s", "s", "wall time of a step", lambda facts: facts.interval.step_s),
    Metric(
        "train",
        "loader_wait_s",
        "s",
        "of `step_s`, the trainer's thread waiting for the loader; on a GPU, which that thread runs ahead of, it may "
        "wait while the GPU works: there `device_idle_s` tells",
        lambda facts: facts.interval.loader_wait_s,
    ),
    Metric(
        "train",
        "device_busy_s",
        "s",
        "from a step's batch being on the training device to the end of its update there, over all micro batches: by "
        "CUDA events on a GPU, by the host's clock on a CPU",
        lambda facts: facts.interval.device_busy_s,
    ),
    Metric(
        "train",
        "device_idle_s",
        "s",
        "by the same clock, between a step's end and the next one's batch being on the device, and between micro "
        "batches: waiting for the loader, for a copy, or for a host that is late",
        lambda facts: facts.interval.device_idle_s,
    ),
    Metric(
        "train",
        "cpu_s",
        "s",
        "processor time of a step, of all threads of the rank's process",
        lambda facts: facts.interval.cpu_s,
    ),
    Metric(
        "train",
        "images_per_s",
        "images/s",
        "images of the global batch over `step_s`",
        lambda facts: facts.config.train.global_batch_size / facts.interval.step_s,
    ),
    Metric(
        "train",
        "bytes_per_image",
        "bytes",
        "what crosses to the training device for an image, of a step's last micro batch: its kept patches, their ids "
        "and its labels, with `data.device: gpu` the image file and planned numbers in place of the patches",
        lambda facts: facts.batch.num_bytes / facts.batch.num_images,
    ),
    Metric(
        "train",
        "bytes_read_per_image",
        "bytes",
        "what is read of the shards, and of the files of units beside them, for an image of these steps: of ordinary "
        "images their files, of addressable JPEGs what the kept patches are made from, and nothing of images that "
        "`data.echo` or `data.cache` hold",
        lambda facts: facts.interval.bytes_read_per_image,
    ),
    Metric(
        "train",
        "pages_read_per_image",
        "pages of 4,096 bytes",
        "pages of a disk that hold what is read for an image of these steps",
        lambda facts: facts.interval.pages_read_per_image,
    ),
    Metric(
        "train",
        "interval_steps",
        "steps",
        "steps since the line before: what the times are means over",
        lambda facts: facts.interval.num_steps,
    ),
    Metric(
        "train",
        "bad_samples",
        "rows",
        "rows of these steps, on all ranks, whose image a substitute stands for",
        lambda facts: facts.bad_samples,
    ),
    Metric(
        "train",
        "source_rows",
        "rows by source",
        "rows of these steps, on all ranks, that each source of `data.train` had, by its name",
        lambda facts: facts.source_rows,
        "several sources in `data.train`",
    ),
    Metric(
        "train",
        "anchor_penalty",
        "",
        "penalty on leaving the starting weights, before the step's update: not in `loss`, but its gradient is in "
        "`grad_norm`",
        lambda facts: facts.anchor_penalty,
        "train.anchor",
    ),
    Metric("eval", "event", "", "`eval`"),
    Metric("eval", "step", "steps", "steps trained before"),
    Metric("eval", "keep_rate", "share of 1", "share of the patches kept in this validation"),
    Metric("eval", "num_kept", "patches", "patches kept of each image"),
    Metric("eval", "top1", "share of 1", "images whose most likely class is right", only="task: classify"),
    Metric(
        "eval",
        "top5",
        "share of 1",
        "images whose class is among the five most likely ones, or all if fewer",
        only="task: classify",
    ),
    Metric("eval", "loss", "", "mean cross entropy, or mean reconstruction loss under `task: pretrain`"),
    Metric("eval", "num_samples", "images", "images counted"),
    Metric("eval", "bad_samples", "images", "images that could not be decoded and are not counted"),
    Metric("eval", "val", "", "name of the validation set", only="several sets in `data.val`"),
    Metric("eval", "weights", "", "`ema`: validated was the moving average of the weights", only="train.ema_decay"),
    Metric("checkpoint", "event", "", "`checkpoint`"),
    Metric("checkpoint", "step", "steps", "steps trained before"),
    Metric("checkpoint", "stall_s", "s", "how long training waited, for an earlier save under way too"),
    Metric("checkpoint", "total_s", "s", "from the beginning of the save until the checkpoint counted"),
    Metric("checkpoint", "num_bytes", "bytes", "size of all its files, of all ranks"),
    Metric("examples", "event", "", "`examples`"),
    Metric("examples", "step", "", "the epoch's first step"),
    Metric("examples", "epoch", "", "the epoch, from 0"),
    Metric("examples", "num_known", "samples", "samples whose score is known; the others are taken before them"),
    Metric(
        "examples",
        "mean_score",
        "",
        "mean of the known scores: losses at the last visit, or how often a sample was forgotten; null where none is",
    ),
    Metric("examples", "num_above_mean", "samples", "samples whose known score is above that"),
    Metric("store", "event", "", "`store`"),
    Metric("store", "step", "", "the step, as of the line beside it"),
    Metric("store", "fetched_bytes", "bytes", "bytes of shards that were fetched, those of attempts that failed too"),
    Metric("store", "fetched_files", "files", "shards that were fetched whole"),
    Metric(
        "store",
        "store_wait_s",
        "s",
        "loaders waiting for shards, the sum over all ranks; a part of `loader_wait_s` only where no batch was ready",
    ),
)


def train_line(facts: StepFacts) -> dict[str, Any]:
    """The line of a training step, its fields in the order of the table."""
    values = {metric: metric.of_step(facts) for metric in METRICS if metric.of_step is not None}
    return {metric.name: value for metric, value in values.items() if value is not None or not metric.only}


def check_line(line: dict[str, Any]) -> None:
    """An assertion: a line has the fields that the table gives its event, no other and none too few."""
    known = {metric.name: metric for metric in METRICS if metric.event == line["event"]}
    assert known, f"{line['event']!r} is no event of the metrics"
    unknown = line.keys() - known.keys()
    missing = {name for name, metric in known.items() if not metric.only} - line.keys()
    assert not unknown, f"fields of {line['event']} lines that the table does not have: {sorted(unknown)}"
    assert not missing, f"fields that {line['event']} lines must have: {sorted(missing)}"


def page() -> str:
    """``docs/metrics.md``."""
    parts = [
        "# The fields of `metrics.jsonl`\n\n"
        "Written by `python -m engine.metrics_table` from its table; do not edit.\n\n"
        "Each line of a run's `metrics.jsonl` is a JSON object; its `event` says what it is about. A run that is taken "
        "up again goes on in the same file, which holds each step once.\n"
    ]
    for event, about in EVENTS.items():
        parts.append(f"\n## {event}\n\n{about}\n\n| field | unit | meaning |\n|---|---|---|\n")
        for metric in METRICS:
            if metric.event == event:
                only = metric.only if "`" in metric.only else f"`{metric.only}`"
                condition = f" (only with {only})" if metric.only else ""
                parts.append(f"| `{metric.name}` | {metric.unit} | {metric.meaning}{condition} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
