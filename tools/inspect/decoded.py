"""What a step decodes of its images: of addressable JPEGs the units under kept patches, the others being holes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import DataConfig
from pipeline.graph.bad_samples import RowReader
from pipeline.graph.inputs import file_sizes, window_corners
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import patchify
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader
from tools.inspect.picture import Pixels, greyed_out, load, save_sheet
from tools.shards.images import pixels_of

MAX_SHOWN = 3
_CELL_PIXELS = 500  # the images' longer side


def draw_decoded(planner: TrainPlanner, plan: StepPlan, title: str, path: Path) -> None:
    """For the first rows of a plan: the stored image, the file that is decoded, and what is kept of the crop, as a PNG.

    Raises:
        ValueError, OSError: no image is decoded in part under this configuration, an image that cannot be read or
            decoded, or a file that cannot be written.
    """
    data = planner.data.model_copy(update={"device": "cpu", "cache": None, "echo": 1})
    planner, plan = _without_model(planner, data), plan.rows(0, min(plan.num_rows, MAX_SHOWN))
    index, selection = planner.samples, planner.selection
    assert isinstance(index, ShardIndex)
    assert isinstance(selection, SelectionConfig)
    settings = GraphSettings(data, selection, planner.crop, plan.num_rows, 1, sizes_vary=planner.sizes_vary)
    if not settings.splices:
        raise ValueError(f"data.augment.crop is {data.augment.crop}; images are decoded in part under resized alone")
    sizes = file_sizes(plan, index)
    with SampleReader(index) as reader:
        rows, files = RowReader(index, reader, settings, None).read(plan), reader.read(plan.file_ids(len(index.shard)))
    corners = np.concatenate(window_corners(plan, settings, sizes), axis=1)
    batch, data = load(planner, plan), planner.data_at(plan.stage)
    blank = patchify(np.full((plan.num_rows, data.image_size, data.image_size, 3), 255, np.uint8), data.patch_size)
    kept = greyed_out(blank, batch.patches.numpy(), batch.ids_keep.numpy(), data.patch_size)
    images: list[Pixels] = []
    labels = []
    for row in range(plan.num_rows):
        stored, decoded = pixels_of(files[row].tobytes()), pixels_of(rows.images[row].tobytes())
        origin = np.zeros(2, np.int32) if rows.origins is None else rows.origins[row]
        placed = np.full_like(stored, 255)
        placed[origin[0] : origin[0] + decoded.shape[0], origin[1] : origin[1] + decoded.shape[1]] = decoded
        images += [_framed(stored, corners[row]), _framed(placed, corners[row]), _cell(kept[row])]
        labels += [
            f"stored, {len(files[row]):,} bytes",
            f"decoded, {len(rows.images[row]):,} bytes",
            f"kept, {plan.stage.num_kept} of {data.num_patches}",
        ]
    read = f"{rows.num_bytes / plan.num_rows:,.0f} bytes read an image"
    save_sheet(np.stack(images), f"{title}: {read}", labels, path, columns=3, cell_inches=3.0)


def _without_model(planner: TrainPlanner, data: DataConfig) -> TrainPlanner:
    """The planner with other data; a rule that looks through the model has no model here, and contrast stands in."""
    assert isinstance(planner.selection, SelectionConfig)
    selection = SelectionConfig(rule="contrast") if planner.selection.needs_model else planner.selection
    return replace(planner, data=data, selection=selection)


def _framed(image: Pixels, window: np.ndarray) -> Pixels:
    """The image with its crop framed, in a cell."""
    top, left, bottom, right = window.tolist()
    framed = image.copy()
    for line in (np.s_[top : top + 2, left:right], np.s_[bottom - 2 : bottom, left:right]):
        framed[line] = (220, 30, 30)
    for line in (np.s_[top:bottom, left : left + 2], np.s_[top:bottom, right - 2 : right]):
        framed[line] = (220, 30, 30)
    return _cell(framed)


def _cell(image: Pixels) -> Pixels:
    """Scaled to the cell and put in its middle, on white."""
    scale = _CELL_PIXELS / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
    cell = np.full((_CELL_PIXELS, _CELL_PIXELS, 3), 255, np.uint8)
    top, left = (_CELL_PIXELS - scaled.shape[0]) // 2, (_CELL_PIXELS - scaled.shape[1]) // 2
    cell[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return cell
