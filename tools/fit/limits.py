"""How far a proposal may go: no step is to be cheaper than the cheapest one that the profile measured."""

from dataclasses import dataclass

import numpy as np

from engine.config import RunConfig
from pipeline.config import DataConfig
from pipeline.plan.schedule import nums_kept_at
from tools.schedule.pace import Shape
from tools.schedule.prediction import Cost


@dataclass(frozen=True)
class Limits:
    """What schedules of a configuration may use.

    Attributes:
        steps_per_epoch: of all examples.
        lowest_rates: by the side of images in pixels, rising to data's, the smallest keep rate there.
        coarse_patches: sides in pixels above data's, rising, with which all patches may be kept.
    """

    config: RunConfig
    steps_per_epoch: int
    lowest_rates: dict[int, float]
    coarse_patches: list[int]

    @property
    def data(self) -> DataConfig:
        return self.config.data

    @property
    def lowest_rate(self) -> float:
        """At data's sizes."""
        return self.lowest_rates[self.data.image_size]

    def smaller_images(self) -> list[int]:
        """Sides in pixels below data's, rising. Raises ValueError where there is none."""
        found = [size for size in self.lowest_rates if size < self.data.image_size]
        if not found:
            raise ValueError(
                f"no image below {self.data.image_size} pixels, in patches of {self.data.patch_size}, takes as much as "
                "the cheapest step that was measured; profile a schedule with smaller images or fewer patches"
            )
        return found

    def larger_patches(self) -> list[int]:
        """Sides in pixels above data's, rising. Raises ValueError where there is none."""
        if not self.coarse_patches:
            raise ValueError(
                f"no patch above {self.data.patch_size} pixels tiles an image of {self.data.image_size} and takes as "
                "much as the cheapest step that was measured"
            )
        return self.coarse_patches


def limits_of(config: RunConfig, cost: Cost, steps_per_epoch: int) -> Limits:
    """What a profile allows.

    Args:
        cost: of a step of this configuration.
    """
    image, patch, least = config.data.image_size, config.data.patch_size, cost.medians.flops.min()

    def is_allowed(shape: Shape) -> bool:
        return bool(cost.flops([shape])[0] >= least)

    def all_patches(image_size: int, patch_size: int) -> Shape:
        return Shape((image_size // patch_size) ** 2, image_size, patch_size)

    all_kept = cost.full.num_kept
    fewest = next((kept for kept in range(1, all_kept) if is_allowed(cost.full._replace(num_kept=kept))), all_kept)
    images = [*(size for size in range(patch, image, patch) if is_allowed(all_patches(size, patch))), image]
    coarse = [
        size for size in range(patch + 1, image + 1) if image % size == 0 and is_allowed(all_patches(image, size))
    ]
    rates = {size: shortest_rate(fewest, all_patches(size, patch).num_kept) for size in images}
    return Limits(config, steps_per_epoch, rates, coarse)


def shortest_rate(num_kept: int, num_patches: int) -> float:
    """The keep rate of fewest digits that keeps so many patches."""
    rates = (round((num_kept + 1) / (num_patches + 1), digits) for digits in range(1, 17))
    return next(rate for rate in rates if nums_kept_at(np.float64(rate), num_patches) == num_kept)
