"""The page of a report: one HTML file that needs nothing beside it, readable on a phone and in print.

Elements are made with ``xml.etree``, which escapes every text and attribute when the page is written out.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

import matplotlib
from matplotlib.figure import Figure

Content = Element | str

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem 1rem 3rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 2px solid #0072b2; }
p, ul { max-width: 44rem; }
p.kind { margin: 0; color: #555; }
.findings { border-left: 4px solid #0072b2; background: #f2f7fb; padding: .4rem 1rem; max-width: 48rem; }
.absent { border-left: 4px solid #d55e00; background: #fdf4ee; padding: .4rem 1rem; max-width: 48rem; }
.absent ul, .findings ul { padding-left: 1.2rem; }
/* A shadow at each edge behind which there is more: it stays, and the white that hides it moves with the table. */
.scroll { overflow-x: auto; max-width: 100%; background-color: #fff; background-repeat: no-repeat;
  background-size: 3rem 100%, 3rem 100%, 1.1rem 100%, 1.1rem 100%; background-position: left, right, left, right;
  background-attachment: local, local, scroll, scroll; background-image:
  linear-gradient(to right, #fff 40%, #fff0), linear-gradient(to left, #fff 40%, #fff0),
  linear-gradient(to right, #0072b299, #0072b200), linear-gradient(to left, #0072b299, #0072b200); }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
p.note { color: #555; margin: 0 0 .5rem; font-size: .9rem; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 2px solid #888; font-weight: 600; }
tbody th { border-bottom: 1px solid #ddd; vertical-align: top; }
th.text, td.text { text-align: left; }
td.long { white-space: normal; min-width: 16rem; }
.figures { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.2rem; }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 38rem; height: auto; }
figcaption { color: #444; font-size: .9rem; max-width: 38rem; }
pre { overflow-x: auto; columns: 20rem; white-space: pre-wrap; max-width: 100%;
  background: #f6f6f6; padding: .8rem; font-size: .8rem; line-height: 1.4; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); gap: .2rem 1rem; margin: 0; }
dt { color: #555; } dd { margin: 0; }
@media (min-width: 56rem) { .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .scroll { overflow: visible; background: none; } table { font-size: 7.5pt; } th, td { padding: .2rem .35rem; }
  td.long { min-width: 8rem; }
  pre { white-space: pre-wrap; font-size: 7.5pt; }
  p.note, figcaption { font-size: 8.5pt; }
  h2 { break-after: avoid; } tr { break-inside: avoid; }
}
"""


def tag(name: str, /, *content: Content | None, **attributes: str) -> Element:
    """An element with texts and elements in it; None is passed over. ``class_`` stands for ``class``."""
    made = Element(name, {key.rstrip("_"): value for key, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        elif part is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + part
        elif part is not None:
            made.text = (made.text or "") + part
    return made


@dataclass(frozen=True)
class Picture:
    """A picture of the page, which is also a PNG file beside it if asked for.

    Attributes:
        name: of the PNG file, without its ending.
        drawn: a matplotlib figure, or the bytes of a PNG file.
        alt: what it shows, for those who cannot see it.
        caption: what to see in it.
    """

    name: str
    drawn: Figure | bytes
    alt: str
    caption: str

    def png(self) -> bytes:
        if isinstance(self.drawn, bytes):
            return self.drawn
        sink = io.BytesIO()
        self.drawn.savefig(sink, format="png", dpi=160)
        return sink.getvalue()

    def element(self) -> Element:
        """A figure whose image is in the page: drawings as SVG, sharp at any size; pixels as PNG."""
        if isinstance(self.drawn, bytes):
            kind, data = "image/png", self.drawn
        else:
            sink = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": self.name}):  # the same picture has the same bytes
                self.drawn.savefig(sink, format="svg", metadata={"Date": None})
            kind, data = "image/svg+xml", sink.getvalue()
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return tag("figure", tag("img", src=source, alt=self.alt), tag("figcaption", self.caption))


@dataclass
class Report:
    """What a report says, before it is a page.

    Attributes:
        kind: what it is about, in a few words, above the findings.
        findings: sentences at the top.
        sections: headings with what stands under them, in order.
        pictures: all of them, in the order of the page.
        absent: what could not be shown, and why; said on the page.
    """

    title: str
    kind: str
    findings: list[str]
    sections: list[tuple[str, list[Element]]]
    pictures: list[Picture]
    absent: list[str]

    def add_pictures(self, heading: str, text: str, pictures: Sequence[Picture]) -> None:
        if pictures:
            self.pictures += pictures
            shown = tag("div", *(picture.element() for picture in pictures), class_="figures")
            self.sections.append((heading, [tag("p", text), shown] if text else [shown]))

    def add_pictures_or_say(self, heading: str, text: str, *makers: Callable[[], list[Picture]]) -> None:
        """The pictures that the makers return; the ValueError or OSError of one is told among what is absent."""
        pictures = []
        for make in makers:
            try:
                pictures += make()
            except (ValueError, OSError) as error:
                self.absent.append(f"{heading}: {' '.join(str(error).split())}")
        self.add_pictures(heading, text, pictures)


def bullets(lines: Sequence[str]) -> Element:
    return tag("ul", *(tag("li", line) for line in lines))


def pairs(values: dict[str, str]) -> Element:
    """Names and what they stand for."""
    return tag("dl", *(part for name, value in values.items() for part in (tag("dt", name), tag("dd", value))))


def mean_and_spread(mean: float, spread: float | None, digits: int = 2, factor: float = 100) -> str:
    """Such as 88.12 ± 0.10; without the spread where one run has none."""
    text = f"{factor * mean:.{digits}f}"
    return text if spread is None else f"{text} ± {factor * spread:.{digits}f}"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", text_columns: Sequence[int] = (0,)
) -> Element:
    """A table that scrolls within itself where it is too wide. The first cell of a row is its heading."""

    def cell(kind: str, column: int, text: str) -> Element:
        classes = ["text"] if column in text_columns else []
        classes += ["long"] if len(text) > 50 else []
        scope = {"scope": "col" if kind == "head" else "row"} if kind == "head" or column == 0 else {}
        name = "th" if scope else "td"
        return tag(name, text, **scope, **({"class": " ".join(classes)} if classes else {}))

    body = [tag("tr", *(cell("body", i, text) for i, text in enumerate(row))) for row in rows]
    heading = tag("thead", tag("tr", *(cell("head", i, text) for i, text in enumerate(head))))
    made = tag("table", heading, tag("tbody", *body))
    # A box that scrolls can be reached with the keyboard, and says what it is.
    box = tag("div", made, class_="scroll", tabindex="0", role="region", **{"aria-label": f"Table by {head[0]}"})
    return tag("div", tag("p", caption, class_="note"), box) if caption else box


def render(report: Report) -> str:
    """The whole page."""
    main = tag("main", tag("h1", report.title), tag("p", report.kind, class_="kind"))
    main.append(tag("div", *(tag("p", sentence) for sentence in report.findings), class_="findings"))
    for heading, content in report.sections:
        main.append(tag("section", tag("h2", heading), *content))
    if report.absent:
        box = tag("div", bullets(report.absent), class_="absent")
        main.append(tag("section", tag("h2", "What is not shown"), box))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", report.title),
        tag("link", rel="icon", href="data:,"),  # else a browser asks the server for one
        tag("style", _STYLE),
    )
    page = tag("html", head, tag("body", main), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"
