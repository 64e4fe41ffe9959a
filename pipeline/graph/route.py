"""Which of two ways the loader takes from decoded images to kept patches.

``resample_first`` resizes the whole image, then selects: it serves every configuration. ``select_first`` selects on the
decoded crop, then resamples and augments only the patches that are kept, so that its work shrinks with the keep rate.
Their pixels differ by a level here and there, and ``contrast`` ranks a few patches otherwise.
"""

from typing import Literal

from pipeline.config import DataConfig
from pipeline.selection.config import SelectionConfig

Route = Literal["resample_first", "select_first"]


def why_not_select_first(data: DataConfig, selection: SelectionConfig) -> str | None:
    """What in a configuration needs the whole resized image, in words; None where nothing does."""
    if data.device != "cpu":
        return f"data.device is {data.device}"
    if selection.of_rule.looks_at_images and selection.of_rule.kernel is None:
        return f"selection.rule {selection.rule} looks at whole images"
    if data.augment.crop != "resized":
        return f"data.augment.crop {data.augment.crop} shifts images and resamples none"
    return None


def route_of(data: DataConfig, selection: SelectionConfig) -> Route:
    """The way that training and validation take: ``data.route``, or under ``auto`` select_first wherever it can be."""
    if data.route == "resample_first" or why_not_select_first(data, selection) is not None:
        return "resample_first"
    return "select_first"


def check_route(data: DataConfig, selection: SelectionConfig) -> None:
    """Raise ValueError if ``data.route`` asks for what the rest of the configuration does not allow."""
    reason = why_not_select_first(data, selection)
    if data.route == "select_first" and reason is not None:
        raise ValueError(f"data.route is select_first, but {reason}; set data.route to auto or resample_first")
