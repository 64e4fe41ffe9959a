"""Draws docs/images/architecture.svg: the way from shards to the optimizer.

python docs/images/architecture.py
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

PICTURE = Path(__file__).with_name("architecture.svg")
INK, QUIET, PLAN, PIPELINE, MODEL = "#1f2933", "#c9d2da", "#7b5ea7", "#2f6db0", "#3c8d5a"
SIDE, KEPT = 7, 10  # patches along a side of the drawn image, and how many of them are kept
# What a step passes through: title, what is said of it, colour of its room.
STATIONS = (
    ("shards", "tar files and\nan index", PIPELINE),
    ("decode", "NVIDIA DALI:\nthe crop alone", PIPELINE),
    ("select", "patches by\nthe rule", PIPELINE),
    ("augment", "kept patches\nalone, uint8", PIPELINE),
    ("embed", "timm ViT from\nkept patches", MODEL),
    ("update", "DeepSpeed:\nZeRO, bf16", MODEL),
)
WIDTH, STEP, BOTTOM, HEIGHT = 1.5, 1.78, 0.0, 1.15


def box(axes: Axes, left: float, bottom: float, width: float, height: float, colour: str) -> None:
    shape = FancyBboxPatch(
        (left, bottom),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=f"{colour}18",
        edgecolor=colour,
    )
    axes.add_patch(shape)


def patches(
    axes: Axes, left: float, bottom: float, kept: set[int], colours: np.ndarray, *, dropped: str | None
) -> None:
    """An image of patches; those that are not kept have the colour ``dropped``, or their own where it is None."""
    size = 1.2 / SIDE
    for patch in range(SIDE * SIDE):
        row, column = divmod(patch, SIDE)
        own = patch in kept or dropped is None
        corner = (left + column * size, bottom + (SIDE - 1 - row) * size)
        face = colours[patch] if own else dropped
        axes.add_patch(Rectangle(corner, size * 0.9, size * 0.9, facecolor=face, edgecolor="none"))


def strip(axes: Axes, left: float, bottom: float, kept: set[int], colours: np.ndarray) -> None:
    """The kept patches side by side, as they go on."""
    size = 1.2 / SIDE
    for place, patch in enumerate(sorted(kept)):
        row, column = divmod(place, 5)
        corner = (left + column * size * 1.3, bottom - row * size * 1.3)
        axes.add_patch(Rectangle(corner, size * 0.9, size * 0.9, facecolor=colours[patch], edgecolor="none"))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})


def draw(axes: Axes) -> None:
    random = np.random.default_rng(3)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    bump = np.exp(-((rows - 3) ** 2 + (columns - 3.3) ** 2) / 5)
    colours = plt.get_cmap("YlGnBu")(0.2 + 0.65 * bump + 0.12 * random.random(SIDE * SIDE))
    kept = set(np.argsort(-bump - 0.5 * random.random(SIDE * SIDE))[:KEPT].tolist())
    last = STEP * (len(STATIONS) - 1) + WIDTH
    box(axes, 0, 2.75, last, 0.8, PLAN)
    axes.text(last / 2, 3.28, "the plan of a step", ha="center", va="center", size=14, weight="bold", color=PLAN)
    about = "which images, crops, augmentations and patches: a function of the configuration and the step's number"
    axes.text(last / 2, 2.95, about, ha="center", va="center", size=10.5, color=INK)
    for number, (title, text, colour) in enumerate(STATIONS):
        left = number * STEP
        middle = left + WIDTH / 2
        box(axes, left, BOTTOM, WIDTH, HEIGHT, colour)
        axes.text(middle, BOTTOM + 0.88, title, ha="center", va="center", size=14, weight="bold", color=colour)
        axes.text(middle, BOTTOM + 0.37, text, ha="center", va="center", size=10.5, color=INK, linespacing=1.3)
        if number:
            arrow(axes, (left - STEP + WIDTH + 0.02, BOTTOM + 0.6), (left - 0.02, BOTTOM + 0.6), INK)
    for number, dropped in ((1, None), (2, QUIET)):
        patches(axes, number * STEP + 0.15, 1.32, kept, colours, dropped=dropped)
    for number in (3, 4):
        strip(axes, number * STEP + 0.2, 1.85, kept, colours)
    for number in range(4):
        arrow(axes, (number * STEP + WIDTH / 2, 2.73), (number * STEP + WIDTH / 2, 2.57), PLAN)
    for left, right, text, colour in (
        (0, 3, "data pipeline, on a thread of its own", PIPELINE),
        (4, 5, "model, on the training device", MODEL),
    ):
        axes.plot([left * STEP, right * STEP + WIDTH], [-0.2, -0.2], color=colour, linewidth=2)
        axes.text(
            (left * STEP + right * STEP + WIDTH) / 2, -0.42, text, ha="center", va="center", size=11, color=colour
        )
    axes.set(xlim=(-0.1, last + 0.1), ylim=(-0.6, 3.65), aspect="equal")
    axes.axis("off")


def main() -> None:
    matplotlib.use("svg")
    plt.rcParams["svg.hashsalt"] = "architecture"  # the same bytes every time
    figure, axes = plt.subplots(figsize=(10.4, 4.2))
    figure.subplots_adjust(0, 0, 1, 1)
    draw(axes)
    figure.savefig(PICTURE, facecolor="white", metadata={"Date": None})
    print(f"{PICTURE} is written")


if __name__ == "__main__":
    main()
