"""The images of a step as the model sees them, drawn: kept patches as they are, dropped ones greyed out."""

import textwrap
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

from pipeline.batch import Batch
from pipeline.cores import allowed_cores, loader_threads
from pipeline.loader import PatchLoader
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.patches import unpatchify

MAX_IMAGES = 64
_COLUMNS = 8
_CELL_INCHES = 1.5
# Dropped patches lose their colour and fade into a bluish grey, which no image without colour holds.
_FADED_COLOR = (172, 188, 216)
_FADED_SHARE = 0.78

Pixels = npt.NDArray[np.uint8]


def draw(planner: TrainPlanner, plan: StepPlan, title: str, labels: list[str], path: Path) -> None:
    """Run the graph on the first ``MAX_IMAGES`` rows of a plan, on the CPU, and draw them into a PNG.

    Args:
        labels: text under each image, one per row of the plan, of one line or two.

    Raises:
        ValueError, OSError: images that cannot be read or decoded, or a file that cannot be written.
    """
    shown = plan.rows(0, min(plan.num_rows, MAX_IMAGES))
    planner = replace(planner, data=planner.data.model_copy(update={"device": "cpu"}))
    data = planner.data_at(shown.stage)
    everything = replace(shown, stage=shown.stage.whole(data.num_patches))
    batch, full = load(planner, shown), load(planner, everything)
    images = greyed_out(full.patches.numpy(), batch.patches.numpy(), batch.ids_keep.numpy(), data.patch_size)
    if shown.num_rows < plan.num_rows:
        title += f" (the first {shown.num_rows} of {plan.num_rows} images)"
    save_sheet(images, title, labels[: shown.num_rows], path)


def load(planner: TrainPlanner, plan: StepPlan) -> Batch:
    """A plan carried out on the CPU."""
    num_threads = loader_threads(allowed_cores())
    with PatchLoader(planner, iter([plan]), batch_size=plan.num_rows, num_threads=num_threads) as loader:
        return next(loader)


def greyed_out(full: Pixels, kept: Pixels, ids_keep: npt.NDArray[np.int32], patch_size: int) -> Pixels:
    """Whole images on which everything but the kept patches has faded to grey.

    Args:
        full: uint8 [B, N, P*P*3], all patches.
        kept: uint8 [B, K, P*P*3].
        ids_keep: int32 [B, K].

    Returns:
        uint8 [B, S, S, 3].
    """
    batch, num_patches, _ = full.shape
    luminance = full.reshape(batch, num_patches, -1, 3).mean(axis=3, keepdims=True)
    faded = luminance * (1 - _FADED_SHARE) + np.array(_FADED_COLOR) * _FADED_SHARE
    patches = faded.round().astype(np.uint8).reshape(full.shape)
    np.put_along_axis(patches, ids_keep[..., None].astype(np.int64), kept, axis=1)
    return unpatchify(patches, patch_size)


def save_sheet(
    images: Pixels,
    title: str,
    labels: list[str],
    path: Path,
    *,
    columns: int = _COLUMNS,
    cell_inches: float = _CELL_INCHES,
) -> None:
    """Images uint8 [B, S, S, 3] with a text under each, as a PNG file. Raises OSError where it cannot be written."""
    matplotlib.use("Agg")  # draws into files, without a display
    from matplotlib import pyplot

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = max(columns * cell_inches, 6)
    lines = textwrap.wrap(title, int(width * 11))
    title_inches = 0.2 + 0.2 * len(lines)
    text_inches = 0.15 + 0.1 * max(label.count("\n") + 1 for label in labels)
    height = rows * (cell_inches + text_inches) + title_inches
    figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image, interpolation="nearest" if image.shape[0] < 100 else "antialiased")
        text = "\n".join(textwrap.shorten(line, 24, placeholder="…") for line in label.split("\n"))
        axis.text(0.5, -0.03, text, transform=axis.transAxes, fontsize=7, ha="center", va="top", parse_math=False)
    figure.suptitle("\n".join(lines), fontsize=9, y=1 - 0.1 / height, verticalalignment="top")
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        top=1 - title_inches / height,
        bottom=(text_inches - 0.05) / height,
        wspace=0.06,
        hspace=text_inches / (1.04 * cell_inches),
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
