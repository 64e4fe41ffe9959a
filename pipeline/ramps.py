"""The kinds of schedules: what ``keep_rate`` holds under each, and the keep rate that each gives a step.

Sizes and strengths follow the same kinds, with pixels or what they are in place of rates. A new kind is an entry of
``KINDS``. The arithmetic of linear, cosine and cyclic is that of McDanel & Huynh,
"Accelerating Vision Transformer Training via a Patch Sampling Schedule" (arXiv 2208.09520): a *drop* ratio runs from
0.8 to -0.1, is clamped to [0, 1] and rounded to the nearest 0.2. A step stands for the middle of its stretch of the
ramp, so that a cycle falls as it rose. The ramp overshoots 0 by half a rounding step so that full patches get as long a
stage as the others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from pipeline.growth import EpochLengths
from pipeline.settings import Settings, one_of

Pairs = list[tuple[float, float]]


@dataclass(frozen=True)
class Words:
    """How errors speak of values.

    Attributes:
        key: of the configuration that holds them.
        one: one of them.
        number, pair: such as one may be, and two.
    """

    key: str
    one: str
    number: str
    pair: str


RATES = Words("keep_rate", "rate", "0.6", "[0.2, 1.0]")
SIZES = Words("values", "size", "160", "[96, 224]")
STRENGTHS = Words("values", "strength", "0.5", "[0, 9]")


@dataclass(frozen=True)
class Laid:
    """Steps of a run, with all that a kind of schedule may look at.

    Attributes:
        steps: int64, any shape.
        ramp_steps: steps of the run before its cooldown.
        lengths: of its epochs.
        rounding: grid of what is dropped of ``top``, None for none.
        draw: from steps, int64 [n], a number in [0, 1) for each, the same whenever it is asked for.
        top: what nothing is dropped of: rate 1, or the largest of other numbers.
    """

    steps: np.ndarray
    ramp_steps: int
    lengths: EpochLengths
    rounding: float | None
    draw: Callable[[np.ndarray], np.ndarray]
    top: float = 1.0

    @property
    def of_run(self) -> np.ndarray:
        """How far into the run each step's middle is, 0 to 1 before the cooldown, in which it is 1."""
        return np.where(self.steps < self.ramp_steps, (self.steps + 0.5) / max(self.ramp_steps, 1), 1.0)

    @property
    def of_epoch(self) -> np.ndarray:
        """How far into its epoch each step's middle is, 0 to 1."""
        return self.lengths.way(self.steps)


@dataclass(frozen=True)
class Form:
    """What ``keep_rate`` holds.

    Attributes:
        text: in words, for error messages.
        rates: every keep rate that a value names; ValueError where it is not of this form.
        check: raises ValueError for values of this form that make no schedule. Called with the rounding, too, and with
            the kind's name.
    """

    text: Callable[[Words], str]
    rates: Callable[[Any], list[float]]
    check: Callable[[Any, float | None, str, Words], None]


@dataclass(frozen=True)
class Kind:
    """A kind of schedule.

    Attributes:
        about: what it does, in a line.
        keep_rates: float64, of the shape of the steps, from the value of ``keep_rate`` and the steps.
    """

    about: str
    form: Form
    keep_rates: Callable[[Any, Laid], np.ndarray]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _one_rate(value: Any) -> list[float]:
    if not _is_number(value):
        raise ValueError
    return [float(value)]


def _low_and_high(value: Any) -> list[float]:
    if not (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))):
        raise ValueError
    return [float(one) for one in value]


def _pairs(value: Any) -> Pairs:
    if not (isinstance(value, list) and value and all(isinstance(one, tuple | list) for one in value)):
        raise ValueError
    return [(float(a), float(b)) for a, b in value]


def _check_ramp(value: Any, rounding: float | None, kind: str, words: Words) -> None:
    low, high = _low_and_high(value)
    if low > high:
        raise ValueError(f"{words.key} for {kind!r} is [low, high], got [{low:g}, {high:g}]")
    if rounding is None:
        return
    for rate in (low, high):
        on_grid = round((1 - rate) / rounding) * rounding
        if abs(on_grid - (1 - rate)) > 1e-9:
            raise ValueError(
                f"keep rate {rate:g} is not on the rounding grid of {rounding:g} (drop ratios 0, "
                f"{rounding:g}, {2 * rounding:g}, ...); choose another rate, another rounding, "
                "or rounding: null"
            )


def _check_steps(value: Any, _: float | None, kind: str, words: Words) -> None:
    fractions = [fraction for fraction, _ in _pairs(value)]
    if fractions[0] != 0 or fractions != sorted(set(fractions)) or fractions[-1] >= 1:
        raise ValueError(
            f"{kind} are [fraction of the run, {words.one}] pairs whose fractions rise from 0 and stay below 1; "
            f"got {fractions}"
        )


def _check_weights(value: Any, _: float | None, kind: str, words: Words) -> None:
    weights = [weight for _, weight in _pairs(value)]
    if not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
        raise ValueError(f"{kind} weights are finite, at least 0 and not all 0, got {weights}")


ONE_RATE = Form(
    lambda words: f"one number, such as {words.number}", _one_rate, lambda value, rounding, kind, words: None
)
LOW_AND_HIGH = Form(lambda words: f"[low, high], such as {words.pair}", _low_and_high, _check_ramp)
RATE_FROM = Form(
    lambda words: f"[[fraction of the run, {words.one}], ...]",
    lambda value: [rate for _, rate in _pairs(value)],
    _check_steps,
)
WEIGHTED = Form(
    lambda words: f"[[{words.one}, weight], ...]",
    lambda value: [rate for rate, _ in _pairs(value)],
    _check_weights,
)


def ramp(about: str, progress: Callable[[Laid], np.ndarray]) -> Kind:
    """A kind that goes between two rates.

    Args:
        progress: how far each step is on its way from low to high, 0 to 1.
    """

    def keep_rates(value: Any, laid: Laid) -> np.ndarray:
        low, high = _low_and_high(value)
        return _ramp(low, high, laid, progress(laid))

    return Kind(about, LOW_AND_HIGH, keep_rates)


def _ramp(low: float, high: float, laid: Laid, progress: np.ndarray) -> np.ndarray:
    top, rounding = laid.top, laid.rounding
    start, end = top - low, top - high - (rounding / 2 if rounding and low < high else 0)
    drop = np.clip((1 - progress) * start + progress * end, top - high, top - low)
    if rounding:
        # Halves go to the smaller drop: then a ramp of 900 steps has stages of 100, 200, 200, 200 and 200 steps,
        # and no stage depends on the last bit of a sum.
        nearest = np.ceil(drop / rounding - 0.5 - 1e-9) * rounding
        drop = np.clip(nearest, top - high, top - low)
    return np.round(top - drop, 9)


def _listed(value: Any, laid: Laid) -> np.ndarray:
    fractions, rates = np.array(_pairs(value)).T
    first_steps = np.ceil(fractions * laid.ramp_steps - 1e-9)
    return rates[np.searchsorted(first_steps, laid.steps, side="right") - 1]


def _chosen(value: Any, laid: Laid) -> np.ndarray:
    rates, weights = np.array(_pairs(value)).T
    edges = np.cumsum(weights) / weights.sum()
    drawn = laid.draw(laid.steps.reshape(-1))
    return rates[np.searchsorted(edges[:-1], drawn, side="right")].reshape(laid.steps.shape)


KINDS: dict[str, Kind] = {
    "constant": Kind("one rate", ONE_RATE, lambda value, laid: np.full(laid.steps.shape, float(value))),
    "linear": ramp("from low to high over the run", lambda laid: laid.of_run),
    "cosine": ramp(
        "from low to high over the run, slower at both ends", lambda laid: (1 - np.cos(math.pi * laid.of_run)) / 2
    ),
    "cyclic": ramp(
        "up from low to high and down again within every epoch", lambda laid: 1 - np.abs(2 * laid.of_epoch - 1)
    ),
    "steps": Kind("each rate from its fraction of the run on, the first fraction 0", RATE_FROM, _listed),
    "choice": Kind("a keyed random choice at every step", WEIGHTED, _chosen),
}


def forms(words: Words) -> str:
    """What ``values`` holds under each kind, in words."""
    return "; ".join(f"{name}: {kind.form.text(words)}" for name, kind in KINDS.items())


Values = float | list[float] | list[tuple[float, float]]


def numbers_of(kind: str, values: Values, words: Words) -> list[float]:
    """Every number that the values of a kind name, in their order.

    Raises:
        ValueError: they are not of the form that the kind asks for.
    """
    form = KINDS[kind].form
    try:
        return form.rates(values)
    except (ValueError, TypeError):
        raise ValueError(f"{words.key} for {kind!r} is {form.text(words)}; got {values}") from None


class FollowsSchedule(Settings):
    """Numbers of one sort that follow a schedule of their own; which sort is for its sections to say."""

    words: ClassVar[Words]

    kind: Annotated[str, one_of(KINDS)] = Field(description="how it runs, as the schedule's kind")
    values: Values

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "FollowsSchedule":
        self.numbers()
        self.of_kind.form.check(self.values, None, self.kind, self.words)
        return self

    @property
    def of_kind(self) -> Kind:
        return KINDS[self.kind]

    def numbers(self) -> list[float]:
        """Every number that ``values`` names; raises as ``numbers_of``."""
        return numbers_of(self.kind, self.values, self.words)

    def at(self, laid: Laid) -> np.ndarray:
        """The number at each of some steps: float64, of their shape. ``laid`` need not say what the ``top`` is."""
        return self.of_kind.keep_rates(self.values, replace(laid, top=max(self.numbers())))


class StrengthScheduleConfig(FollowsSchedule):
    """A strength of augmentation at every step, in place of one number. What ``values`` holds depends on ``kind``, as
    ``keep_rate`` does in the schedule. A cooldown changes nothing: what rises over the run stays at its end, the rest
    goes on.
    """

    words: ClassVar[Words] = STRENGTHS

    values: Values = Field(description=f"strengths within the bounds of the one number; {forms(STRENGTHS)}")
    rounding: float | None = Field(
        None,
        ge=1e-6,
        le=1000,
        description="grid, counted down from the high end, that linear, cosine and cyclic are rounded to; null: none",
    )

    @model_validator(mode="after")
    def _ends_on_its_grid(self) -> "StrengthScheduleConfig":
        if self.rounding is not None and self.of_kind.form is LOW_AND_HIGH:
            low, high = self.numbers()
            if abs(round((high - low) / self.rounding) * self.rounding - (high - low)) > 1e-9:
                raise ValueError(
                    f"rounding: from {low:g} to {high:g} is no whole number of steps of {self.rounding:g}; choose "
                    "another strength, another rounding, or rounding: null"
                )
        return self
