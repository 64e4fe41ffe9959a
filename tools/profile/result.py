"""What a profile says, worked out from its measurements."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal

from tools.profile.verdict import NOTICEABLE, Pays, Ratio, pays

Side = Literal["loader", "step"]

# In the order of the work, as ``--help`` shows them.
PARTS = {
    "read": "plan a batch and read its image files whole; their headers are looked at; under data.echo or data.cache "
    "they are decoded, too",
    "splice": "of addressable JPEGs choose the units that the kept patches are made from, read these alone and put a "
    "JPEG of them together: what this takes longer than reading whole files, below 0 where it saves more; 0 on shards "
    "without files of units",
    "decode": "decode, crop, resize and flip; no more of a file is decoded than the crop needs, so these are one part, "
    "and of addressable JPEGs no more than the kept patches need",
    "augment": "RandAugment or TrivialAugment, colour jitter, mixing, erasing, on whole images; where patches are "
    "selected first, augmenting is in select",
    "select": "score the patches, rank them, gather the kept ones; on a GPU no more than ranking what the graph itself "
    "scores; where patches are selected first, one kernel resamples, augments and gathers them",
    "copy": "out of DALI's memory into the batch, and from the loader's thread to the trainer's; on a GPU the "
    "gathering, and for a rule that looks through the model its scoring and ranking, are here",
}


@dataclass(frozen=True)
class Rate:
    """Images per second over all ranks: the median of the repeats, their extremes, and all of them in their order."""

    median: float
    low: float
    high: float
    repeats: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, repeats: Sequence[float]) -> "Rate | None":
        """None where nothing was measured."""
        if not repeats:
            return None
        return cls(statistics.median(repeats), min(repeats), max(repeats), tuple(repeats))

    @property
    def spread(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class LoaderParts:
    """Milliseconds of one training step on the slowest rank, by part of the loader's work; see ``PARTS``."""

    read_ms: float
    splice_ms: float
    decode_ms: float
    augment_ms: float
    select_ms: float
    copy_ms: float

    @classmethod
    def of(cls, *ends_ms: float) -> "LoaderParts":
        """From the times of loaders that end with each part in turn; the last one is the whole loader."""
        return cls(*(end - start for start, end in itertools.pairwise((0.0, *ends_ms))))


@dataclass(frozen=True)
class StageProfile:
    """One stage of the schedule. What was not measured is None.

    Attributes:
        share: of the run's steps; 0 for full patches that were measured for comparison only.
        loader: the loader alone.
        step: the training step alone, on a batch that lies on the device.
        end_to_end: the loader feeding training steps.
        forward_ms, backward_ms, optimizer_ms: parts of a training step, on the first rank; medians of the repeats.
        communication_ms: of a training step, the time in which ranks exchange gradients or weights, or wait for one
            another to do so, and no computation hides it; the mean over the ranks, seen by torch's profiler in steps of
            its own. It lies within the three parts: under ZeRO 0 in the backward pass.
        loader_parts: of the loader's time for a training step.
        loader_wait_share: of ``end_to_end``'s time, in which a rank waited for its loader; the mean over the ranks.
        bytes_per_image: that cross to the training device: see ``Batch.num_bytes``.
        flops_per_image: of a training step, without a decoder's.
        image_size, patch_size: sides in pixels; None: those of ``data``.
        peak_device_memory_bytes: of the GPU that needed most; None on a CPU.
        loader_thread_us_per_image: microseconds of processor time that the loader's own thread takes for an image while
            nothing holds it up, the mean over the ranks. However many cores there are, a rank's loader makes no more
            than 1e6 over this images per second.
        behind_decode_cpu_ms_per_image: milliseconds of processor time for an image, of all threads of the process while
            nothing but the loader runs in it, less those of a loader that decodes the same crops and ends there; the
            mean over the ranks. Where the graph resizes the whole image, that is part of its decoding.
        bytes_read_per_image, pages_read_per_image: taken out of the shards and the files of units beside them, and the
            pages of 4,096 bytes of a disk that hold them; see ``Batch.bytes_read``. Means over the ranks.
        device_idle_share: of ``end_to_end``'s time, in which a rank's training device had no batch to work on: from the
            end of a step to the next batch's being there, by the device's own clock; the mean over the ranks. A host
            that runs ahead of its GPU may wait for the loader while the GPU works.
    """

    keep_rate: float
    num_kept: int
    share: float
    loader: Rate | None
    step: Rate | None
    end_to_end: Rate | None
    forward_ms: float | None
    backward_ms: float | None
    optimizer_ms: float | None
    communication_ms: float | None
    loader_parts: LoaderParts | None
    loader_wait_share: float | None
    bytes_per_image: float
    flops_per_image: int
    peak_device_memory_bytes: int | None
    loader_thread_us_per_image: float | None = None
    behind_decode_cpu_ms_per_image: float | None = None
    bytes_read_per_image: float | None = None
    pages_read_per_image: float | None = None
    device_idle_share: float | None = None
    image_size: int | None = None
    patch_size: int | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.image_size, self.patch_size

    @property
    def limited_by(self) -> Side | None:
        """The side that is slower alone."""
        if self.loader is None or self.step is None:
            return None
        return "loader" if self.loader.median < self.step.median else "step"

    @property
    def is_clearly_limited(self) -> bool:
        """Whether the repeats tell the slower side from the other."""
        if self.loader is None or self.step is None:
            return False
        ratio = _over(self.loader, self.step)
        return ratio is not None and (ratio.is_above or ratio.is_below)


@dataclass(frozen=True)
class Profile:
    """A run's configuration on these machines.

    Attributes:
        num_patches: of the full image.
        stages: fewest patches first, the full image's last.
        matmul_flops_per_s: what all ranks together reach in a large matrix product, in the precision of training.
        peak_memory_bytes: main memory of the rank that needed most, over the whole profile.
    """

    name: str
    num_patches: int
    world_size: int
    stages: list[StageProfile]
    matmul_flops_per_s: float | None
    peak_memory_bytes: int

    @property
    def full(self) -> StageProfile | None:
        """The stage of full patches."""
        last = self.stages[-1]
        return last if last.num_kept == self.num_patches else None

    @property
    def schedule_time_ratio(self) -> float | None:
        """The run's projected time over that of as many steps at full patches; None where either was not measured."""
        if self.full is None or self.full.end_to_end is None:
            return None
        relative = 0.0
        for stage in self.stages:
            if stage.end_to_end is None:
                return None
            relative += stage.share * self.full.end_to_end.median / stage.end_to_end.median
        return relative

    @property
    def token_ratio(self) -> float:
        """Tokens of the run over those of full patches, the class token counted in, as keep rates count it."""
        return sum(stage.share * (stage.num_kept + 1) for stage in self.stages) / (self.num_patches + 1)

    @property
    def share_of_ideal(self) -> float | None:
        """The schedule's speed over full patches' that is reached, of what it would be if time went with the tokens."""
        ratio = self.schedule_time_ratio
        return None if ratio is None else self.token_ratio / ratio

    @property
    def time_ratio(self) -> Ratio | None:
        """``schedule_time_ratio`` of each repeat; None where that is, or where it is not known of which repeat."""
        if self.full is None or self.full.end_to_end is None:
            return None
        relative = [0.0] * len(self.full.end_to_end.repeats)
        for stage in self.stages:
            if stage.end_to_end is None:
                return None
            both = zip(self.full.end_to_end.repeats, stage.end_to_end.repeats, strict=True)
            relative = [so_far + stage.share * full / own for so_far, (full, own) in zip(relative, both, strict=True)]
        return Ratio.of(relative)

    @property
    def pays(self) -> Pays | None:
        """How far down dropping patches pays, of images and patches of the full image's sizes."""
        of_full = [stage for stage in self.stages if stage.sizes == self.stages[-1].sizes]
        return pays([(stage.keep_rate, stage.end_to_end.repeats) for stage in of_full if stage.end_to_end])

    @property
    def pays_down_to(self) -> float | None:
        """The smallest keep rate of which the repeats tell that it is faster than all larger ones that are."""
        return None if self.pays is None else self.pays.down_to

    def matmul_share(self, stage: StageProfile) -> float | None:
        """Operations per second of the training step alone, over those of a large matrix product."""
        if stage.step is None or self.matmul_flops_per_s is None:
            return None
        return stage.flops_per_image * stage.step.median / self.matmul_flops_per_s

    def as_json(self) -> dict[str, Any]:
        ratio = self.time_ratio
        return {
            "name": self.name,
            "world_size": self.world_size,
            "num_patches": self.num_patches,
            "matmul_flops_per_s": self.matmul_flops_per_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "stages": [self._stage_as_json(stage) for stage in self.stages],
            "pays_down_to": self.pays_down_to,
            "pays_undecided": [] if self.pays is None else list(self.pays.undecided),
            "schedule_time_ratio": self.schedule_time_ratio,
            "schedule_time_ratio_interval": None if ratio is None or ratio.low is None else [ratio.low, ratio.high],
            "token_ratio": self.token_ratio,
            "share_of_ideal": self.share_of_ideal,
        }

    def _stage_as_json(self, stage: StageProfile) -> dict[str, Any]:
        rates: dict[str, Any] = {}
        for name in ("loader", "step", "end_to_end"):
            rate: Rate | None = getattr(stage, name)
            rates[f"{name}_images_per_s"] = None if rate is None else rate.median
            rates[f"{name}_images_per_s_range"] = None if rate is None else [rate.low, rate.high]
            rates[f"{name}_images_per_s_repeats"] = None if rate is None else list(rate.repeats)
        names = (
            "forward_ms",
            "backward_ms",
            "optimizer_ms",
            "communication_ms",
            "loader_wait_share",
            "device_idle_share",
        )
        read = ("bytes_read_per_image", "pages_read_per_image")
        costs = ("bytes_per_image", *read, "flops_per_image", "peak_device_memory_bytes", "limited_by")
        times = ("loader_thread_us_per_image", "behind_decode_cpu_ms_per_image")
        return {
            **{name: getattr(stage, name) for name in ("keep_rate", "num_kept", "share", "image_size", "patch_size")},
            **rates,
            **{part.name: getattr(stage.loader_parts, part.name, None) for part in fields(LoaderParts)},
            **{name: getattr(stage, name) for name in (*names, *costs, *times)},
            "matmul_share": self.matmul_share(stage),
        }


def _over(one: Rate, other: Rate) -> Ratio | None:
    return Ratio.of([a / b for a, b in zip(one.repeats, other.repeats, strict=True)])


def describe(profile: Profile) -> str:
    """The profile as tables for people; where stages have several sizes, their rows say them."""
    with_sizes = len({stage.sizes for stage in profile.stages}) > 1
    pixels = {stage: f" {'{} / {}'.format(*stage.sizes):>9}" if with_sizes else "" for stage in profile.stages}
    head = f" {'pixels':>9}" if with_sizes else ""
    lines = [
        f"{profile.name} on {profile.world_size} rank(s): images/s, medians (± half of the repeats' range)",
        "",
        f"{'keep rate':>9} {'num_kept':>9} {'share':>7} {'loader':>16} {'step':>16} {'both':>16} {'limited by':>11} "
        f"{'wait':>6} {'idle':>6} {'bytes/image':>12} {'read/image':>11} {'pages':>6} {'MFLOPs/image':>13} "
        f"{'of matmul':>10} {'thread us':>10} {'behind ms':>10}{head}",
        *(_row(profile, stage) + pixels[stage] for stage in profile.stages),
        "",
        "wait: of both's time, the host waits for the loader; idle: the training device has no batch to work on",
        "bytes cross to the training device; read, pages: bytes and pages of a disk that are read of the shards",
        "thread, behind: the loader's processor time an image, of its own thread and of all threads behind decoding",
        "milliseconds of a step: the loader's parts, which work at the same time, and those of the training step",
        "",
        f"{'keep rate':>9} {'read':>8} {'splice':>8} {'decode':>8} {'augment':>8} {'select':>8} {'copy':>8} "
        f"| {'forward':>8} {'backward':>8} {'optimizer':>9} {'of these exchange':>18}{head}",
        *(_parts_row(stage) + pixels[stage] for stage in profile.stages),
        "",
        *(["pixels: sides of the image and of a patch", ""] if with_sizes else []),
    ]
    return "\n".join([*lines, *_conclusions(profile)])


def _row(profile: Profile, stage: StageProfile) -> str:
    return (
        f"{stage.keep_rate:>9.4g} {stage.num_kept:>9} {stage.share:>7.1%} {_shown(stage.loader):>16} "
        f"{_shown(stage.step):>16} {_shown(stage.end_to_end):>16} {_limit(stage):>11} "
        f"{_percent(stage.loader_wait_share):>6} {_percent(stage.device_idle_share):>6} "
        f"{stage.bytes_per_image:>12,.0f} {_count(stage.bytes_read_per_image):>11} "
        f"{_ms(stage.pages_read_per_image):>6} {stage.flops_per_image / 1e6:>13,.1f} "
        f"{_percent(profile.matmul_share(stage)):>10} {_ms(stage.loader_thread_us_per_image):>10} "
        f"{_ms(stage.behind_decode_cpu_ms_per_image, 2):>10}"
    )


def _parts_row(stage: StageProfile) -> str:
    loader = (None,) * len(fields(LoaderParts)) if stage.loader_parts is None else astuple(stage.loader_parts)
    return (
        f"{stage.keep_rate:>9.4g} {' '.join(f'{_ms(part):>8}' for part in loader)} | {_ms(stage.forward_ms):>8} "
        f"{_ms(stage.backward_ms):>8} {_ms(stage.optimizer_ms):>9} {_ms(stage.communication_ms):>18}"
    )


def _limit(stage: StageProfile) -> str:
    if stage.limited_by is None:
        return "-"
    return stage.limited_by if stage.is_clearly_limited else f"{stage.limited_by}?"


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.median:.0f} (±{rate.spread / 2:.0f})"


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}"


def _ms(part: float | None, digits: int = 1) -> str:
    return "-" if part is None else f"{part:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _conclusions(profile: Profile) -> list[str]:
    """Sentences on what the figures mean for the schedule."""
    lines = [f"the schedule's tokens are {profile.token_ratio:.1%} of those at full patches"]
    ratio, found = profile.schedule_time_ratio, profile.pays
    if ratio is not None:
        lines[0] += f"; its time would be {ratio:.1%}: {profile.share_of_ideal:.0%} of the ideal speed"
        lines += _how_sure(profile)
    elif profile.full is None:
        lines[0] += "; full patches cannot be trained under this task, so there is no time to compare with"
    if found is not None:
        rates = [stage.keep_rate for stage in profile.stages]
        if found.down_to < max(rates) or not found.undecided:
            below = (
                f"; dropping more gains less than {NOTICEABLE - 1:.0%}"
                if found.down_to > min(rates) and not found.undecided
                else ""
            )
            lines.append(f"dropping patches pays down to keep rate {found.down_to:.4g} of those measured{below}")
        lines += [
            f"cannot tell with this spread whether keep rate {rate:.4g} is faster than {found.down_to:.4g}: "
            f"{one.advice(1.0, NOTICEABLE)}"
            for rate, one in found.undecided.items()
        ]
    if any(stage.limited_by and not stage.is_clearly_limited for stage in profile.stages):
        lines.append("?: with this spread the repeats cannot tell which side is the slower one")
    return [*lines, f"memory: {_memory(profile)}"]


def _how_sure(profile: Profile) -> list[str]:
    """A sentence on the schedule's time where the repeats leave it open."""
    ratio = profile.time_ratio
    if ratio is None or len(profile.stages) == 1:
        return []
    if ratio.is_above or ratio.is_below:
        return [f"its time lies between {ratio.low:.1%} and {ratio.high:.1%} (95 % interval of {ratio.count} repeats)"]
    return [f"cannot tell with this spread whether its time is another than full patches': {ratio.advice(1.0)}"]


def _memory(profile: Profile) -> str:
    text = f"{profile.peak_memory_bytes / 2**30:.1f} GiB of main memory for the rank that needed most"
    device = [stage.peak_device_memory_bytes for stage in profile.stages if stage.peak_device_memory_bytes is not None]
    return text + (f", {max(device) / 2**30:.1f} GiB of its GPU's" if device else "")
