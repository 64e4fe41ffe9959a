"""The image and patch sizes that a run is swept at."""

import argparse
import itertools

from pipeline.config import DataConfig
from pipeline.plan.schedule import num_kept_at


def sizes_of(data: DataConfig, options: argparse.Namespace) -> tuple[DataConfig, ...]:
    """A run's data at each image size with each patch size that is asked for; without any, as it is.

    Raises:
        ValueError: sizes that do not fit one another, or a keep rate that keeps no patch of such an image.
    """
    pairs = itertools.product(options.image_sizes or [data.image_size], options.patch_sizes or [data.patch_size])
    sizes = tuple(data.at(image_size, patch_size) for image_size, patch_size in pairs)
    for at, keep_rate in itertools.product(sizes, options.keep_rates):
        num_kept_at(keep_rate, at.num_patches)
    return sizes
