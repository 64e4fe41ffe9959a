"""The settings of the input side: data, augmentation, selection and schedule.

Plain validated values without behaviour; the engine's run configuration embeds them.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(epochs?|steps?|samples?)\s*$")


@dataclass(frozen=True)
class Duration:
    """A length of training in epochs, steps or samples, such as ``90epochs``."""

    amount: Fraction
    unit: Literal["epochs", "steps", "samples"]

    @classmethod
    def parse(cls, value: Any) -> "Duration":
        if isinstance(value, Duration):
            return value
        match = _DURATION.match(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(
                f"a duration is a number with a unit, such as 90epochs, 500steps or 1000000samples; got {value!r}"
            )
        unit = match[2].rstrip("s") + "s"
        return cls(Fraction(match[1]), unit)  # type: ignore[arg-type]

    def steps(self, steps_per_epoch: int, global_batch_size: int) -> int:
        """The duration in optimizer steps, rounded to the nearest step (halves up)."""
        exact = {
            "epochs": self.amount * steps_per_epoch,
            "steps": self.amount,
            "samples": self.amount / global_batch_size,
        }[self.unit]
        return int(exact + Fraction(1, 2))

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount.denominator == 1 else float(self.amount)
        return f"{amount}{self.unit}"


DurationField = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str, return_type=str)]


class Settings(BaseModel):
    """Base of every section of a configuration file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class AutoAugmentConfig(Settings):
    """RandAugment (arXiv 1909.13719) or TrivialAugment (arXiv 2103.10158), with the operations of DALI's own suites.

    RandAugment applies ``num_ops`` operations in a row, each of a magnitude near ``magnitude``; TrivialAugment applies
    one, of any magnitude.
    """

    kind: Literal["randaugment", "trivialaugment"]
    num_ops: int = Field(2, ge=1, le=8, description="randaugment: operations on each image")
    magnitude: float = Field(9.0, ge=0, le=10, description="randaugment: strength of an operation, 0 to 10")
    magnitude_std: float = Field(0.5, ge=0, description="randaugment: standard deviation of the magnitude")

    @model_validator(mode="after")
    def _trivial_has_no_strength(self) -> "AutoAugmentConfig":
        names = ("num_ops", "magnitude", "magnitude_std")
        if self.kind == "trivialaugment" and any(
            getattr(self, name) != type(self).model_fields[name].default for name in names
        ):
            raise ValueError(f"trivialaugment draws one operation of any magnitude; leave out {', '.join(names)}")
        return self


class AugmentConfig(Settings):
    """How a training image becomes a square of ``image_size`` pixels, and what is done to it before patches are chosen.

    In this order: crop, flip, ``auto`` or ``color_jitter``, mixup or cutmix, erasing. Validation always resizes and
    crops the centre, and does none of the rest.
    """

    crop: Literal["resized", "pad"] = Field(
        "resized", description="resized: random resized crop; pad: shift by up to pad_pixels (small images)"
    )
    scale: tuple[float, float] = Field((0.08, 1.0), description="share of the image's area a resized crop covers")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width over height of a resized crop")
    pad_pixels: int = Field(4, ge=0, description="pixels of black border a pad crop may reach into")
    flip_probability: float = Field(0.5, ge=0, le=1, description="chance of a horizontal mirror image")
    auto: AutoAugmentConfig | None = Field(None, description="RandAugment or TrivialAugment")
    color_jitter: float = Field(
        0.0, ge=0, le=1, description="brightness, contrast and saturation change by factors in [1 - this, 1 + this]"
    )
    mixup: float = Field(0.0, ge=0, le=1000, description="alpha of mixup's Beta(alpha, alpha); 0: no mixup")
    cutmix: float = Field(0.0, ge=0, le=1000, description="alpha of cutmix's Beta(alpha, alpha); 0: no cutmix")
    mix_probability: float = Field(1.0, ge=0, le=1, description="share of the pairs of images that are mixed")
    cutmix_share: float = Field(0.5, ge=0, le=1, description="of the mixed pairs, where mixup and cutmix are both on")
    erase_probability: float = Field(0.0, ge=0, le=1, description="chance that a box of the image is erased")
    erase_mode: Literal["pixel", "mean"] = Field(
        "pixel", description="an erased box holds noise with data.mean and data.std, or data.mean alone"
    )
    repeats: int = Field(1, ge=1, description="times that each image of a global batch stands in it")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed in pairs."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0

    @model_validator(mode="after")
    def _one_change_of_colour(self) -> "AugmentConfig":
        if self.auto is not None and self.color_jitter > 0:
            raise ValueError(f"{self.auto.kind} changes colours itself; set color_jitter to 0 or auto to null")
        return self

    @model_validator(mode="after")
    def _ranges(self) -> "AugmentConfig":
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} is [low, high] with 0 < low <= high, got [{low}, {high}]")
        if self.scale[1] > 1:
            raise ValueError(f"scale is a share of the image's area, at most 1, got {self.scale[1]}")
        return self


class CacheConfig(Settings):
    """Decoded images that each rank keeps from one epoch to the next. It decides how fast a run is, not what it sees.

    What is in it stays; once it is full, all other images are decoded as ever.
    """

    kind: Literal["memory", "disk"]
    folder: Path | None = Field(None, description="disk: where each rank keeps a file, on a disk of its own host")
    max_bytes: int = Field(ge=1, description="bytes a rank; a decoded image takes height x width x 3")

    @model_validator(mode="after")
    def _folder_on_disk_only(self) -> "CacheConfig":
        if (self.kind == "disk") != (self.folder is not None):
            needed = "needs a folder" if self.kind == "disk" else "has no folder; leave it out"
            raise ValueError(f"kind: {self.kind} {needed}")
        return self


class DataConfig(Settings):
    """Where the images are and what leaves the pipeline."""

    train: Path = Field(description="folder of training shards and their index")
    val: Path = Field(description="folder of validation shards and their index; may be the same folder")
    num_train_samples: int | None = Field(
        None,
        ge=1,
        description="stated size of the training set, so that a schedule can be previewed without data",
    )
    num_classes: int = Field(ge=2)
    image_size: int = Field(224, ge=1, description="side of the square image, in pixels")
    patch_size: int = Field(16, ge=1, description="side of a square patch, in pixels")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    augment: AugmentConfig = AugmentConfig()
    val_crop_fraction: float = Field(
        0.875, gt=0, le=1, description="side of validation's centre crop over the shorter side of the image"
    )
    shuffle: Literal["global", "window"] = Field(
        "global",
        description="global: any sample next; window: shards in random order, shuffled a few at a time",
    )
    window_shards: int = Field(8, ge=1, description="shards that are shuffled together under shuffle: window")
    echo: int = Field(
        1,
        ge=1,
        description="steps that each decoded training image is used in, with another crop and so on in each; an epoch "
        "sees as many times fewer images. It changes training",
    )
    echo_gap: int = Field(
        1,
        ge=1,
        description="under echo: steps from one view of an image to its next; a rank holds up to this many times its "
        "share of a batch in decoded images",
    )
    cache: CacheConfig | None = Field(None, description="decoded training images, kept across epochs")
    device: Literal["cpu", "gpu"] = Field("cpu", description="where images are decoded and resized")
    route: Literal["auto", "resample_first", "select_first"] = Field(
        "auto",
        description="select_first: patches are chosen on the decoded crop and only these are resampled; "
        "resample_first: the whole image is resampled and augmented before; auto: select_first where it is possible",
    )
    num_threads: int | None = Field(None, ge=1, description="decoding threads per rank; default: the rank's cores")
    prefetch_batches: int = Field(4, ge=1, description="batches kept ready ahead of the trainer")
    on_bad_sample: Literal["fail", "skip"] = Field(
        "fail",
        description="an image that cannot be decoded ends the run (fail), or is replaced by a planned substitute in "
        "training and left out of the counts in validation (skip)",
    )
    max_bad_share: float = Field(
        0.001,
        ge=0,
        le=1,
        description="under on_bad_sample: skip, the run ends once more than this share of a data set's samples was bad",
    )

    @model_validator(mode="after")
    def _patches_tile_the_image(self) -> "DataConfig":
        if self.image_size % self.patch_size:
            divisors = [p for p in range(1, self.image_size + 1) if self.image_size % p == 0]
            nearest = sorted(divisors, key=lambda p: abs(p - self.patch_size))[:3]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}; "
                f"patch sizes near it that do: {', '.join(map(str, sorted(nearest)))}"
            )
        return self

    @model_validator(mode="after")
    def _echo_and_cache_fit(self) -> "DataConfig":
        if self.device == "gpu" and (self.echo > 1 or self.cache is not None):
            raise ValueError("echo and cache hold images decoded on a CPU; set device to cpu, or leave them out")
        if self.echo > 1 and self.augment.repeats > 1:
            raise ValueError(
                f"echo {self.echo} and augment.repeats {self.augment.repeats} both show an image several times: echo "
                "in several steps, repeats in one; choose one of them"
            )
        if self.echo == 1 and self.echo_gap > 1:
            raise ValueError(f"echo_gap {self.echo_gap} is the gap between the views of an echo, and echo is 1")
        return self

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2


class SelectionConfig(Settings):
    """Which patches are kept."""

    rule: Literal["random", "grid", "contrast", "magnitude"] = Field(
        "contrast", description="magnitude is the paper's; it looks through the model, the others at pixels or at none"
    )
    temperature: float = Field(
        0.0, ge=0, description="0: the best patches; larger: sampled, with chances that grow with the score"
    )
    estimate: Literal["none", "rows", "sketch"] = Field(
        "none",
        description="for magnitude. none: the exact rule; rows: over some rows of the embedding; sketch: in its main "
        "directions",
    )
    estimate_size: int = Field(32, ge=1, description="rows, or directions, of the estimate")
    snapshot_at: Literal["start", "epoch", "stage"] = Field(
        "epoch",
        description="for magnitude: when the pipeline gets the model's embedding anew; at the start only, at each "
        "epoch, or wherever the schedule changes its stage",
    )

    @model_validator(mode="after")
    def _fits_the_rule(self) -> "SelectionConfig":
        if self.temperature > 0 and self.rule not in ("contrast", "magnitude"):
            raise ValueError(f"rule {self.rule!r} has no score that a temperature could soften; leave it at 0")
        if self.estimate != "none" and self.rule != "magnitude":
            raise ValueError(f"estimate {self.estimate!r} is of the rule 'magnitude'; rule {self.rule!r} has none")
        return self

    @property
    def is_planned(self) -> bool:
        """Whether the rule looks at no image, so that its choice is part of the plan."""
        return self.rule in ("random", "grid")

    @property
    def needs_model(self) -> bool:
        """Whether the rule looks through the model, so that the pipeline needs snapshots of its embedding."""
        return self.rule == "magnitude"


class ScheduleConfig(Settings):
    """The share of patches kept at every step. What ``keep_rate`` holds depends on ``kind``.

    =================== ======================================================================
    constant            one rate, such as 0.6
    linear, cosine      [low, high]: from low to high over the run
    cyclic              [low, high]: up from low to high and down again within every epoch
    steps               [[fraction of the run, rate], ...], the first fraction 0
    choice              [[rate, weight], ...]: a keyed random choice at every step
    =================== ======================================================================
    """

    kind: Literal["constant", "linear", "cosine", "cyclic", "steps", "choice"] = "constant"
    keep_rate: float | list[float] | list[tuple[float, float]] = 1.0
    rounding: float | None = Field(
        0.2, description="grid that linear, cosine and cyclic are rounded to; null turns rounding off"
    )
    cooldown: DurationField = Field(
        Duration.parse("0epochs"), description="length at the end of the run at full patches"
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "ScheduleConfig":
        for rate in self.rates():
            if not 0 < rate <= 1:
                raise ValueError(f"a keep rate lies in (0, 1], got {rate:g} for schedule kind {self.kind!r}")
        if self.rounding is not None and not 0 < self.rounding <= 1:
            raise ValueError(f"rounding is a grid in (0, 1] or null, got {self.rounding:g}")
        if self.kind in ("linear", "cosine", "cyclic"):
            self._check_ramp()
        elif self.kind == "steps":
            fractions = [fraction for fraction, _ in self.pairs()]
            if fractions[0] != 0 or fractions != sorted(set(fractions)) or fractions[-1] >= 1:
                raise ValueError(
                    "steps are [fraction of the run, rate] pairs whose fractions rise from 0 and stay below 1; "
                    f"got {fractions}"
                )
        elif self.kind == "choice":
            weights = [weight for _, weight in self.pairs()]
            if not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
                raise ValueError(f"choice weights are finite, at least 0 and not all 0, got {weights}")
        return self

    def _check_ramp(self) -> None:
        low, high = self.rates()
        if low > high:
            raise ValueError(f"keep_rate for {self.kind!r} is [low, high], got [{low:g}, {high:g}]")
        if self.rounding is not None:
            for rate in (low, high):
                on_grid = round((1 - rate) / self.rounding) * self.rounding
                if abs(on_grid - (1 - rate)) > 1e-9:
                    raise ValueError(
                        f"keep rate {rate:g} is not on the rounding grid of {self.rounding:g} (drop ratios 0, "
                        f"{self.rounding:g}, {2 * self.rounding:g}, ...); choose another rate, another rounding, "
                        "or rounding: null"
                    )

    def rates(self) -> list[float]:
        """Every keep rate the configuration names."""
        value = self.keep_rate
        if self.kind == "constant":
            if not isinstance(value, int | float):
                raise ValueError(f"keep_rate for 'constant' is one number, such as 0.6; got {value}")
            return [float(value)]
        if self.kind in ("linear", "cosine", "cyclic"):
            if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)):
                raise ValueError(f"keep_rate for {self.kind!r} is [low, high], such as [0.2, 1.0]; got {value}")
            return [float(v) for v in value if isinstance(v, int | float)]
        return [pair[1] if self.kind == "steps" else pair[0] for pair in self.pairs()]

    def pairs(self) -> list[tuple[float, float]]:
        """The pairs of ``steps`` and ``choice`` as they stand in the configuration."""
        value = self.keep_rate
        form = "[[fraction of the run, rate], ...]" if self.kind == "steps" else "[[rate, weight], ...]"
        if not (isinstance(value, list) and value and all(isinstance(v, tuple | list) for v in value)):
            raise ValueError(f"keep_rate for {self.kind!r} is {form}; got {value}")
        return [(float(a), float(b)) for a, b in value]  # type: ignore[misc]
