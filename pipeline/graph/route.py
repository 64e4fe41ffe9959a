"""Which of two ways the loader takes from decoded images to kept patches.

``resample_first`` resizes and augments the whole image, then selects: it serves every configuration. ``select_first``
selects on the decoded crop and resamples only the patches that are kept, so that its work shrinks with the keep rate.
Their pixels differ by a level here and there, and ``contrast`` ranks a few patches otherwise.
"""

from typing import Literal

from pipeline.config import DataConfig
from pipeline.selection.config import SelectionConfig

Route = Literal["resample_first", "select_first"]


def why_not_select_first(data: DataConfig, selection: SelectionConfig, *, targets: bool = False) -> str | None:
    """What in a configuration needs the whole resized image, in words; None where nothing does.

    Args:
        targets: the dropped patches are wanted too.
    """
    augment = data.augment
    if data.device != "cpu":
        return f"data.device is {data.device}"
    if not selection.is_planned and selection.of_rule.kernel is None:
        return f"selection.rule {selection.rule} looks at whole images"
    if targets:
        return "task pretrain needs the dropped patches too"
    if augment.crop != "resized":
        return f"data.augment.crop {augment.crop} shifts images and resamples none"
    needs = {
        "data.augment.auto": augment.auto is not None,
        "data.augment.color_jitter": augment.color_jitter > 0,
        "data.augment.erase_probability": augment.erase_probability > 0,
    }
    used = [name for name, on in needs.items() if on]
    verb = "needs" if len(used) == 1 else "need"
    return f"{' and '.join(used)} {verb} whole images" if used else None


def route_of(data: DataConfig, selection: SelectionConfig, *, targets: bool = False) -> Route:
    """The way that training and validation take: ``data.route``, or under ``auto`` select_first wherever it can be."""
    if data.route == "resample_first" or why_not_select_first(data, selection, targets=targets) is not None:
        return "resample_first"
    return "select_first"


def check_route(data: DataConfig, selection: SelectionConfig, *, targets: bool = False) -> None:
    """Raise ValueError if ``data.route`` asks for what the rest of the configuration does not allow."""
    reason = why_not_select_first(data, selection, targets=targets)
    if data.route == "select_first" and reason is not None:
        raise ValueError(f"data.route is select_first, but {reason}; set data.route to auto or resample_first")
