"""How schedules of each kind spend more or less: one number from 0 to 1, and what stands in the configuration for it.

A larger number never makes a step cheaper, so that a budget has one answer. A new kind of proposal is an entry of
``FAMILIES``; a new kind of schedule, of a form that is there, needs nothing.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from pipeline.plan.epochs import run_steps
from pipeline.plan.sizes import Axis
from pipeline.ramps import KINDS, LOW_AND_HIGH, ONE_RATE, RATE_FROM, WEIGHTED, Form
from pipeline.settings import Duration
from tools.fit.limits import Limits

Values = dict[str, Any]  # of the configuration, by key; None: the key's own nothing
Way = Callable[[float], Values]  # from how much to spend, 0 to 1

_RAMP_STAGES = 5  # as many as the paper's ramps have
_LEAST = 1e-4  # of a grid, of a fraction
_COARSE_AT_MOST = 2 / 3  # of the run, where milder sizes can be had: as patch-level training has it
_LEAST_STEEP = 0.9  # of the way to full patches: beyond, a ramp of keep rates would be none
_FEWEST_EXAMPLES = 0.1  # of an epoch: below, an example would have to stand for more than ten

_FULL_PATCHES = {"schedule.kind": "constant", "schedule.keep_rate": 1.0}
_OF_DATA = {"schedule.image_size": None, "schedule.patch_size": None}


def _one_rate(spend: float, lowest: float) -> Values:
    return {"keep_rate": round(lowest + spend * (1 - lowest), 4)}


def _ramp_to(end: int) -> Callable[[float, float], Values]:
    """Ramps of as many stages, on a grid of their own, whose last one drops ``end`` of its steps."""

    def ramp(spend: float, lowest: float) -> Values:
        start = end + _RAMP_STAGES - 1
        # Cut off, not rounded: the ramp starts no lower. What is added is the last bit of a quotient.
        grid = max(math.floor((1 - spend) * (1 - lowest) / start * 1e5 + 1e-6) / 1e5, _LEAST)
        return {"keep_rate": [round(1 - start * grid, 9), round(1 - end * grid, 9)], "rounding": grid}

    return ramp


def _fraction(part: float) -> float:
    return min(max(round(part, 5), _LEAST), 1 - _LEAST)


def _coarse_then_full(spend: float, lowest: float) -> Values:
    return {"keep_rate": [[0.0, lowest], [_fraction(1 - spend), 1.0]]}


def _coarse_or_full(spend: float, lowest: float) -> Values:
    return {"keep_rate": [[lowest, round(1 - spend, 5)], [1.0, round(spend, 5)]]}


# Keys of the section schedule, from how much to spend and the smallest keep rate to use. Of each form, those to try in
# turn: ramps that end at full patches before those that end below.
FORMS: dict[Form, tuple[Callable[[float, float], Values], ...]] = {
    ONE_RATE: (_one_rate,),
    LOW_AND_HIGH: tuple(_ramp_to(end) for end in range(_RAMP_STAGES)),
    RATE_FROM: (_coarse_then_full,),
    WEIGHTED: (_coarse_or_full,),
}


def _keep_rates(kind: str, limits: Limits) -> list[Way]:
    """A kind of schedule; the sizes stay as they are in the configuration."""

    def way(values: Callable[[float, float], Values], spend: float) -> Values:
        made = values(spend, limits.lowest_rate)
        return {"schedule.kind": kind, **{f"schedule.{key}": value for key, value in made.items()}}

    return [partial(way, values) for values in FORMS[KINDS[kind].form]]


def _two_sizes(axis: Axis, kind: str, cheap: int, full: int, most: float, spend: float) -> Values:
    part = (1 - spend) * most
    values = {
        "steps": [[0.0, cheap], [_fraction(part), full]],
        "choice": [[cheap, round(part, 5)], [full, round(1 - part, 5)]],
    }
    return {**_FULL_PATCHES, **_OF_DATA, f"schedule.{axis}": {"kind": kind, "values": values[kind]}}


def _mild_first(axis: Axis, kind: str, cheaper: list[int], full: int) -> list[Way]:
    """One cheaper size and the full one: the mildest with which most of the run is not needed, else the cheapest."""
    mild = [partial(_two_sizes, axis, kind, size, full, _COARSE_AT_MOST) for size in cheaper]
    return [*mild, partial(_two_sizes, axis, kind, cheaper[-1], full, 1.0)]


def _image_sizes(kind: str, limits: Limits) -> list[Way]:
    return _mild_first("image_size", kind, limits.smaller_images()[::-1], limits.data.image_size)


def _patch_sizes(kind: str, limits: Limits) -> list[Way]:
    return _mild_first("patch_size", kind, limits.larger_patches(), limits.data.patch_size)


def _growing_images(limits: Limits) -> list[Way]:
    """Ramps that end at the full size before those that end below it, for a cooldown to go on from."""
    sizes = [*limits.smaller_images(), limits.data.image_size]

    def way(end: int, spend: float) -> Values:
        low = sizes[round(spend * end)]
        return {**_FULL_PATCHES, **_OF_DATA, "schedule.image_size": {"kind": "linear", "values": [low, sizes[end]]}}

    return [partial(way, end) for end in range(len(sizes) - 1, 0, -1)]


def _sizes_and_keep(limits: Limits) -> list[Way]:
    """Images that grow, in three stages where there are as many sizes, and in each of them a ramp of the keep rate."""

    def rates(size: int, spend: float) -> list[float]:
        low = limits.lowest_rates[size]
        low = round(low + _LEAST_STEEP * spend * (1 - low), 4)
        return [low, round((low + 1) / 2, 4), 1.0]

    def way(start: int, spend: float) -> Values:
        full, patch = limits.data.image_size, limits.data.patch_size
        sizes = sorted({start, (start + full) // 2 // patch * patch, full})
        parts = [[round((place + third / 3) / len(sizes), 6) for third in range(3)] for place in range(len(sizes))]
        keep_rate = [
            pair for part, size in zip(parts, sizes, strict=True) for pair in zip(part, rates(size, spend), strict=True)
        ]
        image_size = [(part[0], size) for part, size in zip(parts, sizes, strict=True)]
        return {
            **_OF_DATA,
            "schedule.kind": "steps",
            "schedule.keep_rate": [list(pair) for pair in keep_rate],
            "schedule.image_size": {"kind": "steps", "values": [list(pair) for pair in image_size]},
        }

    return [partial(way, start) for start in limits.smaller_images()[::-1]]


def _examples(limits: Limits) -> list[Way]:
    """Full patches, of some of the examples: as many epochs, that are shorter."""
    config = limits.config
    if config.schedule.examples is not None:
        raise ValueError("schedule.examples is in the configuration already, and stays with every other kind")
    batch, per_epoch, duration = config.train.global_batch_size, limits.steps_per_epoch, config.train.duration

    def way(spend: float) -> Values:
        keep = round(_FEWEST_EXAMPLES + spend * (1 - _LEAST - _FEWEST_EXAMPLES), 4)
        values = {**_FULL_PATCHES, **_OF_DATA, "schedule.examples": {"rule": "loss", "keep": keep}}
        if duration.unit == "epochs":
            return values
        epochs = Duration(Fraction(duration.steps(per_epoch, batch), per_epoch), "epochs")
        return {**values, "train.duration": f"{run_steps(epochs, per_epoch, batch, keep)}steps"}

    return [way]


# By the name in the table of proposals: ways to try in turn. Raises ValueError where there is none.
FAMILIES: dict[str, Callable[[Limits], list[Way]]] = {
    **{kind: partial(_keep_rates, kind) for kind in KINDS},
    "image_size": partial(_image_sizes, "steps"),
    "image_size_linear": _growing_images,
    "patch_size": partial(_patch_sizes, "steps"),
    "patch_size_choice": partial(_patch_sizes, "choice"),
    "sizes_and_keep": _sizes_and_keep,
    "examples": _examples,
}
