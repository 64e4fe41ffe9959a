"""How many images are addressable, why the others are not, and what it has cost: counted, added up and put in words."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.shards.addressable import Transcoded


@dataclass
class Tally:
    """How many images are addressable, why the others are not, and what transcoding has cost.

    Attributes:
        num_addressable: images that are, however they came to be.
        not_addressable: reason -> images.
        num_transcoded: images that jpegtran has made addressable.
        bytes_before, bytes_after: of those.
    """

    num_addressable: int = 0
    not_addressable: dict[str, int] = field(default_factory=dict)
    num_transcoded: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def add(self, one: "Transcoded") -> None:
        if one.units is None:
            self.not_addressable[one.reason] = self.not_addressable.get(one.reason, 0) + 1
            return
        self.num_addressable += 1
        if one.bytes_before:
            self.num_transcoded += 1
            self.bytes_before += one.bytes_before
            self.bytes_after += len(one.data)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "not_addressable": dict(sorted(self.not_addressable.items()))}


def sum_tallies(tallies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One tally, as JSON, of several."""
    total = Tally()
    for tally in tallies:
        for name in ("num_addressable", "num_transcoded", "bytes_before", "bytes_after"):
            setattr(total, name, getattr(total, name) + tally[name])
        for reason, count in tally["not_addressable"].items():
            total.not_addressable[reason] = total.not_addressable.get(reason, 0) + count
    return total.as_json()


def describe_tally(tally: dict[str, Any]) -> list[tuple[str, str]]:
    """The same in words: (title, text) for what is addressable and for each reason why others are not."""
    others = tally["not_addressable"]
    line = f"{tally['num_addressable']:,} of {tally['num_addressable'] + sum(others.values()):,} images"
    if before := tally["bytes_before"]:
        after = tally["bytes_after"]
        line += (
            f"; {tally['num_transcoded']:,} of them transcoded, {before / 1e6:,.1f} MB before and "
            f"{after / 1e6:,.1f} MB after ({after / before - 1:+.1%})"
        )
    return [("addressable", line), *(("not addressable", f"{count:,}: {why}") for why, count in others.items())]
