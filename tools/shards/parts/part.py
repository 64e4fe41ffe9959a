"""``--part K/N``: the K-th of N shares of a command's shards."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Part:
    """One of ``count`` parts; ``number`` goes from 1. Raises ValueError where there is no such part."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"part {self.number}/{self.count}: parts are numbered from 1, so K of K/N is 1 to N; where a job array "
                "counts from 0, add 1"
            )

    @staticmethod
    def parse(text: str) -> "Part":
        """``3/16``. Raises ValueError where it is something else."""
        if (found := re.fullmatch(r"(\d+)/(\d+)", text)) is None:
            raise ValueError(f"part {text!r}: it is written K/N, such as 3/16")
        return Part(int(found[1]), int(found[2]))

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Its run of neighbouring items: the parts' shares are all items once, in order; none where N is larger."""
        return items[(self.number - 1) * len(items) // self.count : self.number * len(items) // self.count]

    def file_name(self, stem: str, suffix: str) -> str:
        """Of what the part leaves, such as ``conversion-03-of-16.jsonl``; in the order of the parts by name."""
        return f"{stem}-{self.number:0{len(str(self.count))}d}-of-{self.count}{suffix}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def name_parts(parts: Sequence[Part]) -> str:
    """``part 3/16``, or ``parts 3, 7 and 9 of 16``; of many the first."""
    if len(parts) == 1:
        return f"part {parts[0]}"
    numbers = [str(part.number) for part in sorted(parts)]
    shown = numbers if len(numbers) <= 12 else [*numbers[:10], f"{len(numbers) - 10} more"]
    return f"parts {', '.join(shown[:-1])} and {shown[-1]} of {parts[0].count}"


def check_numbers(folder: Path, files: Mapping[Path, Part]) -> None:
    """All parts are there, once. files: what they have left, of one count.

    Raises ValueError where a part is missing or doubled; says which.
    """
    counts = Counter(files.values())
    if doubled := [part for part, count in counts.items() if count > 1]:
        names = ", ".join(path.name for path, part in files.items() if part == doubled[0])
        raise ValueError(f"{folder}: {name_parts(doubled)} is there twice ({names}); remove one")
    count = next(iter(files.values())).count
    if missing := [part for part in (Part(number + 1, count) for number in range(count)) if part not in counts]:
        raise ValueError(f"{folder}: missing: {name_parts(missing)}; run with --part what is missing, then merge again")
