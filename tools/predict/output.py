"""Answers as lines: a table for people, CSV or JSON for programs."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.predict.images import Answer


@dataclass(frozen=True)
class Layout:
    """What the lines are to hold.

    Attributes:
        names: of the model's classes, by label.
        top: classes in a line, the likeliest first.
        labels: of the images, all that there may be, where they are known; None where they are not.
    """

    names: Sequence[str]
    top: int
    labels: Sequence[str] | None


def in_table(layout: Layout) -> tuple[str, Callable[[Answer], str]]:
    """The head of a table, and what makes its lines. The key stands last, because nobody knows how long it gets."""
    width = max(5, *map(len, layout.names))
    label_width = 0 if layout.labels is None else max(5, *map(len, layout.labels), 0)
    head = "".join(f"{_numbered('class', i):{width}}  {'probability':>11}  " for i in range(layout.top))
    head += f"{'label':{label_width}}  " if layout.labels is not None else ""

    def line(answer: Answer) -> str:
        cells = "".join(f"{layout.names[label]:{width}}  {share:>11.1%}  " for label, share in answer.best)
        return cells + (f"{answer.label:{label_width}}  " if layout.labels is not None else "") + answer.key

    return f"{head}key", line


def in_csv(layout: Layout) -> tuple[str, Callable[[Answer], str]]:
    """The head, and what makes a line of each answer."""
    columns = [_numbered(name, i) for i in range(layout.top) for name in ("class", "probability")]
    head = ["key", *columns, *(["label"] if layout.labels is not None else [])]

    def line(answer: Answer) -> str:
        best = [cell for label, share in answer.best for cell in (layout.names[label], share)]
        return _csv_line([answer.key, *best, *([answer.label] if layout.labels is not None else [])])

    return _csv_line(head), line


def in_json(layout: Layout) -> tuple[None, Callable[[Answer], str]]:
    """No head; each answer is an object on a line of its own."""

    def line(answer: Answer) -> str:
        best = [{"class": layout.names[label], "probability": share} for label, share in answer.best]
        label = {} if answer.label is None else {"label": answer.label}
        return json.dumps({"key": answer.key, **best[0], **label, **({"top": best} if layout.top > 1 else {})})

    return None, line


FORMS: dict[str, Callable[[Layout], tuple[str | None, Callable[[Answer], str]]]] = {
    "table": in_table,
    "csv": in_csv,
    "json": in_json,
}


def _numbered(name: str, place: int) -> str:
    return name if place == 0 else f"{name}_{place + 1}"


def _csv_line(cells: Sequence[object]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="").writerow(cells)
    return sink.getvalue()
