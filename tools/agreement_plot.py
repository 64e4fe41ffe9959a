"""The picture of an agreement report: what a rule costs, and how far it keeps the exact rule's patches."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from tools.agreement import Rule

# Of the palette of Okabe & Ito, told apart with any colour vision; the marker says the same again.
_LOOKS = {
    "magnitude": ("#000000", "*"),
    "sketch": ("#0072B2", "o"),
    "rows": ("#D55E00", "s"),
    "pixels": ("#009E73", "^"),
}


def draw(rules: list["Rule"], title: str, path: Path) -> None:
    """Write overlap with the exact rule at keep 0.4 against cost as a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for rule in rules:
        kind = next((kind for kind in ("sketch", "rows") if kind in rule.name), None)
        color, marker = _LOOKS[kind or ("magnitude" if rule.name == "magnitude" else "pixels")]
        axes.plot(rule.cost_us, 100 * rule.overlap["0.4"], color=color, marker=marker, markersize=9, linestyle="none")
        label = rule.name.removeprefix("magnitude, ")
        axes.annotate(label, (rule.cost_us, 100 * rule.overlap["0.4"]), xytext=(7, -3), textcoords="offset points")
    axes.set(xscale="log", xlabel="µs to score and rank an image, one core", ylim=(0, 105))
    axes.set_ylabel("patches kept as by the exact rule, % (keep 0.4)")
    axes.axhline(95, color="#999999", linewidth=1, linestyle="--")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=10)
    figure.savefig(path)
