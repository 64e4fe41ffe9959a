"""Sizes that follow a schedule of their own: of the image and of a patch, in pixels.

They run as keep rates do (``pipeline/ramps.py``), each axis by itself; what a step's patches are is told by all of
them together (``schedule.Stage``).
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.config import DataConfig
from pipeline.plan.keyed import Stream
from pipeline.ramps import LOW_AND_HIGH, SIZES, FollowsSchedule, Laid, Values, Words, forms
from pipeline.settings import MOST_PIXELS

Axis = Literal["image_size", "patch_size"]
STREAMS: dict[Axis, Stream] = {"image_size": Stream.IMAGE_SIZE, "patch_size": Stream.PATCH_SIZE}


class SizeScheduleConfig(FollowsSchedule):
    """A size in pixels at every step before the cooldown. What ``values`` holds depends on ``kind``, as ``keep_rate``
    does in the schedule.
    """

    words: ClassVar[Words] = SIZES

    values: Values = Field(description=f"sizes in pixels; {forms(SIZES)}")
    rounding: int | None = Field(
        None,
        ge=1,
        le=MOST_PIXELS,
        description="grid in pixels that linear, cosine and cyclic are rounded to; null: data.patch_size",
    )

    @model_validator(mode="after")
    def _whole_pixels(self) -> "SizeScheduleConfig":
        for size in self.numbers():
            if not (1 <= size <= MOST_PIXELS and size == int(size)):
                raise ValueError(f"values: a size is a whole number of pixels from 1 to {MOST_PIXELS:,}, got {size:g}")
        return self

    @property
    def named(self) -> list[int]:
        """Every size that the configuration names, in its order."""
        return [int(size) for size in self.numbers()]

    def rounded_to(self, patch_size: int) -> int:
        """The grid of a ramp, in pixels. patch_size: that of the full image."""
        return self.rounding or patch_size

    def possible(self, patch_size: int) -> list[int]:
        """Every size that a step may have before the cooldown, ascending. patch_size: as for ``rounded_to``."""
        if self.of_kind.form is not LOW_AND_HIGH:
            return sorted(set(self.named))
        low, high = self.named
        return list(range(low, high + 1, self.rounded_to(patch_size)))

    def check_grid(self, patch_size: int) -> None:
        """Raise ValueError where a ramp begins or ends beside its grid. patch_size: as for ``rounded_to``."""
        grid = self.rounded_to(patch_size)
        off = [size for size in self.named if size % grid]
        if off and self.of_kind.form is LOW_AND_HIGH:
            raise ValueError(
                f"{off[0]} pixels is not on the rounding grid of {grid} ({grid}, {2 * grid}, ...); choose another size "
                "or another rounding"
            )

    def sizes(self, laid: Laid) -> np.ndarray:
        """Pixels at each of some steps before the cooldown: int64, of their shape."""
        return np.rint(self.at(laid)).astype(np.int64)


def check_sizes(
    sizes: Mapping[Axis, SizeScheduleConfig], data: DataConfig, *, scored_by: str | None, task: str
) -> None:
    """Look whether sizes that follow a schedule suit those of ``data`` and the rest of the run.

    Where both image and patch follow one, whether they fit one another is for ``PatchSchedule`` to say, which knows
    what comes together.

    Args:
        scored_by: the rule that scores patches with the model; None where none does.

    Raises:
        ValueError: they do not; it names the key.
    """
    for axis, one in sizes.items():
        if scored_by is not None:
            raise ValueError(
                f"schedule.{axis}: selection.rule {scored_by} scores patches of one size, data's; choose another rule, "
                f"or leave schedule.{axis} out"
            )
        if task == "pretrain":
            raise ValueError(f"schedule.{axis}: a decoder reconstructs images of one size; leave it out")
        try:
            one.check_grid(data.patch_size)
            for size in one.possible(data.patch_size) if len(sizes) == 1 else []:
                full = {"image_size": data.image_size, "patch_size": data.patch_size}
                check_fit(**{**full, axis: size})
        except ValueError as error:
            raise ValueError(f"schedule.{axis}: {error}") from None


def check_fit(image_size: int, patch_size: int) -> None:
    """Raise ValueError where patches of this size do not tile an image of this size, in pixels."""
    if image_size % patch_size:
        raise ValueError(
            f"patches of {patch_size} pixels do not tile an image of {image_size}; choose image sizes that every "
            "patch size they meet divides"
        )
