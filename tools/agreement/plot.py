"""The picture of an agreement report: what a rule costs, and how far it keeps the exact rule's patches."""

from pathlib import Path

from matplotlib.figure import Figure

from tools.agreement.compare import Rule
from tools.colours import BLACK, BLUE, GREEN, VERMILION

_LOOKS = {
    "magnitude, exact": (BLACK, "*"),
    "estimate: sketch": (BLUE, "o"),
    "estimate: rows": (VERMILION, "s"),
    "pixels or none": (GREEN, "^"),
}


def _kind(rule: Rule) -> str:
    if "," not in rule.name:
        return "magnitude, exact" if rule.name == "magnitude" else "pixels or none"
    return rule.name.partition(" of ")[0].replace("magnitude, ", "estimate: ")


def draw(rules: list[Rule], title: str, path: Path) -> None:
    """Write overlap with the exact rule at keep 0.4 against cost as a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for kind, (color, marker) in _LOOKS.items():
        of_kind = [rule for rule in rules if _kind(rule) == kind]
        points = [(rule.cost_us, 100 * rule.overlap["0.4"]) for rule in of_kind]
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=9, linestyle="none", label=kind)
        for number, (rule, point) in enumerate(zip(of_kind, points, strict=True)):
            label = rule.name.rpartition(" of ")[2]
            above = 9 if number % 2 else -17  # neighbours take turns
            axes.annotate(label, point, xytext=(0, above), textcoords="offset points", ha="center")
    axes.legend(loc="upper left", title="rule (numbers: estimate_size)")
    axes.set(xscale="log", xlabel="µs to score and rank an image, one core", ylim=(0, 110))
    axes.set_ylabel("patches kept as by the exact rule, % (keep 0.4)")
    axes.axhline(95, color="#999999", linewidth=1, linestyle="--")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=10)
    figure.savefig(path)
