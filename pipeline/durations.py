"""Lengths of training, as people write them."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

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


DurationField = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str, return_type=str)]
