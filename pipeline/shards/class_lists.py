"""One list of classes for data whose own lists differ, and the table of labels that leads from each to it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClassList:
    """What a set says of its classes.

    Attributes:
        key: of the configuration, for messages, such as ``data.train.photos``.
        names: of its classes in label order; empty where it names none.
        given: the run's class by the set's, as the configuration says it: names, or numbers that are labels.
    """

    key: str
    names: Sequence[str]
    given: Mapping[str, str | int]


def one_list(sets: Sequence[ClassList]) -> tuple[list[str], list[npt.NDArray[np.int32] | None]]:
    """The run's classes in label order, and for each set what ``table_of`` makes of it.

    The first set's classes keep their labels. What the others name besides comes behind them, in their order.

    Raises:
        ValueError: as ``table_of``; or some sets name their classes and others do not.
    """
    names: list[str] = []
    for one in sets:
        if one is sets[0] and not one.given:
            names += one.names  # as they are, also where two are called alike
            continue
        targets = [one.given.get(name, one.given.get(str(label))) for label, name in enumerate(one.names)]
        if one is sets[0]:  # it may give its classes other names in the run
            new = [name if target is None else target for target, name in zip(targets, one.names, strict=True)]
        else:
            new = [name for target, name in zip(targets, one.names, strict=True) if target is None]
        names += [name for name in dict.fromkeys(new) if isinstance(name, str) and name not in names]
    return names, [table_of(one, names) for one in sets]


def table_of(one: ClassList, names: Sequence[str]) -> npt.NDArray[np.int32] | None:
    """The run's label of each of a set's labels, int32 [classes], -1 for none; None where all are the same.

    Args:
        names: of the run's classes in label order; empty where nobody names any.

    Raises:
        ValueError: a class that the run does not have, or whose name stands for several; a table that names a class
            that the set does not have; or a set without names among others that have some.
    """
    if not one.given and list(one.names) == list(names):
        return None
    if not one.given and not (one.names and names):
        if not one.names and names:
            raise ValueError(
                f"{one.key} does not name its classes (no dataset.json), and others of the run do; say which of theirs "
                f"its labels are, such as {one.key.rpartition('.')[0]}: [{{..., classes: {{0: {names[0]}}}}}]"
            )
        return None
    asked = _targets(one)
    table = np.full(1 + max(asked, default=-1), -1, dtype=np.int32)
    for label, target in asked.items():
        table[label] = _label(one, target, names)
    return None if np.array_equal(table, np.arange(len(names))) else table


def _targets(one: ClassList) -> dict[int, str | int]:
    """What each of a set's labels is in the run, by the table or by its own name."""
    twice = {name for name, count in Counter(one.names).items() if count > 1}
    found: dict[int, str | int] = dict(enumerate(one.names))
    for own, target in one.given.items():
        if own in twice:
            raise ValueError(f"{one.key}: several of its classes are called {own!r}; name them by their labels")
        if own in one.names:
            found[one.names.index(own)] = target
        elif own.isdecimal() and (not one.names or int(own) < len(one.names)):
            found[int(own)] = target
        else:
            raise ValueError(f"{one.key}: its table names a class {own!r}, which it does not have{_some(one.names)}")
    for label, name in enumerate(one.names):
        if name in twice and found[label] == name:
            raise ValueError(
                f"{one.key}: several of its classes are called {name!r}, so that its label {label} is not told by "
                "name; give it in classes, by its label"
            )
    return found


def _label(one: ClassList, target: str | int, names: Sequence[str]) -> int:
    if isinstance(target, int):
        if names and target >= len(names):
            raise ValueError(f"{one.key}: its table names label {target}, but the run has {len(names)} classes")
        return target
    if (count := names.count(target)) != 1:
        what = (
            f"{count} classes of the run are called so; name it by its label" if count else "the run has no such class"
        )
        raise ValueError(f"{one.key}: class {target!r}: {what}{'' if count else _some(names)}")
    return names.index(target)


def _some(names: Sequence[str]) -> str:
    return f"; it has {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}" if names else ""
