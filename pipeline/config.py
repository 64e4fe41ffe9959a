"""The settings of the input side: data and augmentation. Those of schedule and selection stand beside their tables.

Plain validated values without behaviour; the engine's run configuration embeds them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.addresses import Place
from pipeline.growth import Growth, check_growth
from pipeline.operations import SUITES
from pipeline.ramps import StrengthScheduleConfig
from pipeline.settings import MOST_PIXELS, MOST_THREADS, OrAuto, Settings, UserPath, one_of
from pipeline.sources import MixPer, Sources, ValSets, check_mixing, check_stores, train_sources, val_sets
from pipeline.storage.cache import CacheSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Ratio = Annotated[float, Field(le=1000)]
Mean = Annotated[float, Field(ge=0, le=1)]
Std = Annotated[float, Field(ge=0.001, le=10)]


Magnitude = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Alpha = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
StrengthName = Literal["magnitude", "mixup", "cutmix"]
_MAGNITUDE, _ALPHA = TypeAdapter(Magnitude), TypeAdapter(Alpha)


def _strength(value: Any, bounds: TypeAdapter[float]) -> float | StrengthScheduleConfig:
    """What a key holds that takes a number within bounds or a schedule of such. An error speaks of the one it holds."""
    if value is None or isinstance(value, bool | list | tuple):
        text = "Input should be a number, or a schedule such as {kind: linear, values: [0, 9]}"
        raise PydanticCustomError("strength_type", text)
    if not isinstance(value, dict | StrengthScheduleConfig):
        return bounds.validate_python(value)
    found = StrengthScheduleConfig.model_validate(value)
    for one in found.numbers():
        bounds.validate_python(one)
    return found


class AutoAugmentConfig(Settings):
    """Operations on the whole image that are drawn from a suite, one of ``operations.SUITES``.

    RandAugment applies ``num_ops`` operations in a row, each with the chance ``probability`` and of a magnitude near
    ``magnitude``, which may follow a schedule; its defaults are timm's ``rand-m9-mstd0.5-inc1``. The others apply one,
    of any magnitude.
    """

    kind: Annotated[str, one_of(SUITES)] = Field(description="; ".join(f"{k}: {s.source}" for k, s in SUITES.items()))
    num_ops: int = Field(2, ge=1, le=8, description="randaugment: operations on each image")
    magnitude: Magnitude | StrengthScheduleConfig = Field(
        9.0, description="randaugment: strength of an operation, 0 to 10, or a schedule of it"
    )
    magnitude_std: float = Field(0.5, ge=0, le=10, description="randaugment: standard deviation of the magnitude")
    probability: float = Field(0.5, ge=0, le=1, description="randaugment: chance of each operation to be applied")
    increasing: bool = Field(
        True, description="randaugment: a larger magnitude changes more under every operation, as timm's inc1"
    )

    @field_validator("magnitude", mode="wrap")
    @classmethod
    def _number_or_schedule(cls, value: Any, _: ValidatorFunctionWrapHandler) -> float | StrengthScheduleConfig:
        return _strength(value, _MAGNITUDE)

    @model_validator(mode="after")
    def _only_some_are_set(self) -> "AutoAugmentConfig":
        names = [name for name in type(self).model_fields if name != "kind"]
        given = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if given and not SUITES[self.kind].is_set:
            raise ValueError(f"{self.kind} draws one operation of any magnitude; leave out {', '.join(names)}")
        return self


class AugmentConfig(Settings):
    """How a training image becomes a square of ``image_size`` pixels, and what is done to it before patches are chosen.

    In this order: crop, flip, ``auto``, ``color_jitter``, mixup or cutmix, erasing. Validation always resizes and
    crops the centre, and does none of the rest.
    """

    crop: Literal["resized", "pad"] = Field(
        "resized", description="resized: random resized crop; pad: shift by up to pad_pixels (small images)"
    )
    scale: tuple[float, float] = Field((0.08, 1.0), description="share of the image's area a resized crop covers")
    ratio: tuple[Ratio, Ratio] = Field((3 / 4, 4 / 3), description="width over height of a resized crop")
    pad_pixels: int = Field(4, ge=0, le=MOST_PIXELS, description="pixels of black border a pad crop may reach into")
    flip_probability: float = Field(0.5, ge=0, le=1, description="chance of a horizontal mirror image")
    auto: AutoAugmentConfig | None = Field(None, description=f"{', '.join(SUITES)}, or null for none")
    color_jitter: float = Field(
        0.0, ge=0, le=1, description="brightness, contrast and saturation change by factors in [1 - this, 1 + this]"
    )
    mixup: Alpha | StrengthScheduleConfig = Field(
        0.0, description="alpha of mixup's Beta(alpha, alpha), or a schedule of it; 0: no mixup"
    )
    cutmix: Alpha | StrengthScheduleConfig = Field(
        0.0, description="alpha of cutmix's Beta(alpha, alpha), or a schedule of it; 0: no cutmix"
    )
    mix_probability: float = Field(1.0, ge=0, le=1, description="share of the pairs of images that are mixed")
    cutmix_share: float = Field(0.5, ge=0, le=1, description="of the mixed pairs, where mixup and cutmix are both on")
    erase_probability: float = Field(0.0, ge=0, le=1, description="chance that a box of the image is erased")
    erase_mode: Literal["pixel", "mean"] = Field(
        "pixel", description="an erased box holds noise with data.mean and data.std, or data.mean alone"
    )
    repeats: int = Field(1, ge=1, le=1000, description="times that each image of a global batch stands in it")

    @property
    def blends(self) -> bool:
        """Whether mixup mixes images, at some step at least."""
        return _most(self.mixup) > 0 and self.mix_probability > 0

    @property
    def pastes(self) -> bool:
        """Whether cutmix mixes images, at some step at least."""
        return _most(self.cutmix) > 0 and self.mix_probability > 0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed in pairs, at some step at least."""
        return self.blends or self.pastes

    @property
    def schedules(self) -> dict[StrengthName, StrengthScheduleConfig]:
        """The strengths that follow a schedule, by name."""
        every: dict[StrengthName, float | StrengthScheduleConfig] = {"mixup": self.mixup, "cutmix": self.cutmix}
        if self.auto is not None:
            every = {"magnitude": self.auto.magnitude, **every}
        return {name: one for name, one in every.items() if isinstance(one, StrengthScheduleConfig)}

    def at(self, strengths: Mapping[StrengthName, float]) -> "AugmentConfig":
        """The same with numbers in place of schedules. strengths: a step's, of each that follows one."""
        if not strengths:
            return self
        numbers: dict[str, Any] = {name: value for name, value in strengths.items() if name != "magnitude"}
        if self.auto is not None and "magnitude" in strengths:
            numbers["auto"] = self.auto.model_copy(update={"magnitude": strengths["magnitude"]})
        return self.model_copy(update=numbers)

    @field_validator("mixup", "cutmix", mode="wrap")
    @classmethod
    def _number_or_schedule(cls, value: Any, _: ValidatorFunctionWrapHandler) -> float | StrengthScheduleConfig:
        return _strength(value, _ALPHA)

    @model_validator(mode="after")
    def _one_change_of_colour(self) -> "AugmentConfig":
        if self.auto is not None and self.color_jitter > 0 and SUITES[self.auto.kind].changes_colors:
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


def _most(strength: float | StrengthScheduleConfig) -> float:
    return max(strength.numbers()) if isinstance(strength, StrengthScheduleConfig) else strength


class CacheConfig(Settings):
    """Decoded images that each rank keeps from one epoch to the next. It decides how fast a run is, not what it sees.

    What is in it stays; once it is full, all other images are decoded as ever.
    """

    kind: Literal["memory", "disk"] = Field(
        description="memory: for this run; disk: in a folder, for later runs on the same shards as well"
    )
    folder: UserPath | None = Field(None, description="disk: where each rank keeps a file, on a disk of its own host")
    max_bytes: int = Field(ge=1, le=2**60, description="bytes a rank; a decoded image takes height x width x 3")

    @model_validator(mode="after")
    def _folder_on_disk_only(self) -> "CacheConfig":
        if (self.kind == "disk") != (self.folder is not None):
            needed = "needs a folder" if self.kind == "disk" else "has no folder; leave it out"
            raise ValueError(f"kind: {self.kind} {needed}")
        return self


class DataConfig(Settings):
    """Where the images are and what leaves the pipeline."""

    train: Place | Sources = Field(
        description="folder of training shards and their index, or its address (s3://bucket/prefix, gs://, https://), "
        "or a list of sources, which are mixed"
    )
    val: Place | ValSets = Field(
        description="folder of validation shards and their index, which may be the same, or its address, or a list of "
        "sets"
    )
    mix_per: MixPer = Field(
        "batch",
        description="of several training sources, batch: every global batch has their stated shares; epoch: an epoch "
        "has, in random order",
    )
    cache_folder: UserPath | None = Field(
        None,
        description="where a host keeps the shards that it fetches from a store, for all ranks and runs there, on a "
        "disk of its own; needed where train or val is an address",
    )
    cache_max_bytes: int | None = Field(
        None, ge=1, le=2**60, description="bytes of shards in cache_folder; null: all that are fetched stay"
    )
    remote_patience_s: float = Field(
        600.0,
        ge=0,
        le=86_400,
        description="seconds to wait for a store that gives nothing, while other ranks wait in a collective operation "
        "(DEEPSPEED_TIMEOUT, 15 minutes by default); then the run ends with a checkpoint and exit code 75",
    )
    growth: Growth = Field(
        (),
        description="what the training set was in earlier epochs, if it has grown since; a run that goes on over the "
        "larger set with --allow-change data.train.fingerprint writes it. Epochs from the last before_epoch on see all",
    )
    num_train_samples: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="stated size of the training set, so that a schedule can be previewed without data",
    )
    num_classes: Annotated[int, OrAuto()] = Field(
        ge=2,
        le=10**8,
        description="classes of the labels, which are whole numbers from 0 on; auto: as many as dataset.json beside "
        "the training shards names",
    )
    levels: tuple[Annotated[int, Field(ge=1, le=MOST_PIXELS)], ...] = Field(
        (),
        description="smaller images beside the training shards (tools.shards resize-levels), by the pixels of their "
        "shorter side, the largest first: each crop is taken from the smallest in which it still has image_size pixels "
        "in height and width",
    )
    image_size: int = Field(224, ge=1, le=MOST_PIXELS, description="side of the square image, in pixels")
    patch_size: int = Field(16, ge=1, le=MOST_PIXELS, description="side of a square patch, in pixels")
    mean: Annotated[tuple[Mean, Mean, Mean], OrAuto(is_default=True)] = Field(
        IMAGENET_MEAN,
        description="of red, green and blue, as shares of 255: what is subtracted from every pixel; auto: what the "
        "pretrained weights were trained with, else ImageNet's [0.485, 0.456, 0.406]",
    )
    std: Annotated[tuple[Std, Std, Std], OrAuto(is_default=True)] = Field(
        IMAGENET_STD,
        description="of red, green and blue, as shares of 255: what is divided by then; auto: as for mean, else "
        "ImageNet's [0.229, 0.224, 0.225]",
    )
    augment: AugmentConfig = AugmentConfig()
    val_crop_fraction: float = Field(
        0.875, gt=0, le=1, description="side of validation's centre crop over the shorter side of the image"
    )
    shuffle: Literal["global", "window"] = Field(
        "global",
        description="global: any sample next; window: shards in random order, shuffled a few at a time",
    )
    window_shards: int = Field(8, ge=1, le=10**9, description="shards that are shuffled together under shuffle: window")
    echo: int = Field(
        1,
        ge=1,
        le=1000,
        description="steps that each decoded training image is used in, with another crop and so on in each; an epoch "
        "sees as many times fewer images. It changes training",
    )
    echo_gap: int = Field(
        1,
        ge=1,
        le=10**6,
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
    num_threads: int | None = Field(
        None,
        ge=1,
        le=MOST_THREADS,
        description="decoding threads per rank; default: the rank's cores, from 8 on two "
        "less, for the thread that trains and the loader's own",
    )
    prefetch_batches: int = Field(
        4, ge=1, le=10_000, description="batches kept ready ahead of the trainer, where it trains"
    )
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

    _train = field_validator("train", mode="wrap")(train_sources)
    _val = field_validator("val", mode="wrap")(val_sets)

    @model_validator(mode="after")
    def _mixes_what_fits(self) -> "DataConfig":
        times = {"echo": self.echo, "augment.repeats": self.augment.repeats}
        check_mixing(self.train, self.mix_per, self.shuffle, times)
        check_growth(self.growth, is_mixed=isinstance(self.train, tuple), echo=self.echo)
        return self

    @model_validator(mode="after")
    def _patches_tile_the_image(self) -> "DataConfig":
        _check_tiling(self.image_size, self.patch_size)
        return self

    @model_validator(mode="after")
    def _stores_have_a_cache(self) -> "DataConfig":
        check_stores(self.train, self.val, self.levels, self.cache_folder)
        return self

    @model_validator(mode="after")
    def _levels_shrink(self) -> "DataConfig":
        if list(self.levels) != sorted(set(self.levels), reverse=True):
            raise ValueError(f"levels are named from the largest to the smallest, each once; got {list(self.levels)}")
        if self.levels and self.augment.crop == "pad":
            raise ValueError(
                "levels serve resized crops, but augment.crop is pad; leave levels out, or set it to resized"
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

    def at(self, image_size: int | None = None, patch_size: int | None = None) -> "DataConfig":
        """The same for images and patches of other sizes in pixels; None: as they are here.

        Raises:
            ValueError: a size below 1, or a patch that does not divide the image.
        """
        own = {"image_size": self.image_size, "patch_size": self.patch_size}
        asked = {"image_size": image_size, "patch_size": patch_size}
        sizes = own | {key: size for key, size in asked.items() if size is not None}
        if sizes == own:
            return self
        for key, size in sizes.items():
            if not 1 <= size <= MOST_PIXELS:
                raise ValueError(f"{key}: a size is a whole number of pixels from 1 to {MOST_PIXELS:,}, got {size}")
        _check_tiling(**sizes)
        return self.model_copy(update=sizes)

    @property
    def shard_cache(self) -> CacheSettings | None:
        """Where shards of a store are kept on this host; None where nothing is said of it."""
        if self.cache_folder is None:
            return None
        return CacheSettings(self.cache_folder, self.cache_max_bytes, self.remote_patience_s)

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2


def _check_tiling(image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        divisors = [p for p in range(1, image_size + 1) if image_size % p == 0]
        nearest = sorted(divisors, key=lambda p: abs(p - patch_size))[:3]
        raise ValueError(
            f"patch_size {patch_size} does not divide image_size {image_size}; "
            f"patch sizes near it that do: {', '.join(map(str, sorted(nearest)))}"
        )
