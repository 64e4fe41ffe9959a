"""What every section of a configuration is made of: strict settings, durations, and names out of tables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.files import user_path

# Far beyond what anyone means, so that a slip of the keyboard is told at once and nothing is counted up to it.
MOST_STEPS = 10**8
MOST_IMAGES = 10**6
MOST_PIXELS = 10**6
MOST_THREADS = 10_000

_DURATION = re.compile(r"^\s*([0-9]{1,14}(?:\.[0-9]{1,14})?)\s*(epochs?|steps?|samples?)\s*$")


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
        # All digits and no exponent, as parse reads it.
        amount = Decimal(self.amount.numerator) / Decimal(self.amount.denominator)
        return f"{amount:f}{self.unit}"


UserPath = Annotated[Path, AfterValidator(user_path)]
"""A path in which ``~`` is the home folder."""

DurationField = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str, return_type=str)]


class Settings(BaseModel):
    """Base of every section of a configuration file: unknown keys are errors, values never change.

    A number is finite, and is no truth value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            kinds = {annotation, *get_args(annotation)}
            if bool not in kinds and any(kind in (int, float) or isinstance(kind, int) for kind in kinds):
                raise ValueError(f"a number is asked for, got {str(value).lower()}")
        return value


@dataclass(frozen=True)
class OneOf:
    """A check of a name against a table's names, as they are then: any other is an error that lists them."""

    table: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table)

    def __call__(self, name: str) -> str:
        if name not in self.names:
            *others, last = (repr(one) for one in self.names)
            expected = f"{', '.join(others)} or {last}"
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name


def one_of(table: Mapping[str, Any]) -> AfterValidator:
    """For a field that holds a name out of a table: any other is an error that lists them."""
    return AfterValidator(OneOf(table))


@dataclass(frozen=True)
class OrAuto:
    """Marks a key for which a file may say ``auto``: the run looks the value up before anything else sees it.

    is_default: so it does where the file leaves the key out.
    """

    is_default: bool = False
