"""Scores of a plan's patches from the score maps of its images, before any image is read."""

import numpy as np

from pipeline.config import DataConfig
from pipeline.graph.inputs import planned_ids, row_sizes
from pipeline.graph.kernels.map_scores import score_patches
from pipeline.graph.rows import levels_of, mixing_of
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import CropKind, Samples, StepPlan
from pipeline.selection.config import select
from pipeline.selection.maps import ScoreMaps


def map_scores(plan: StepPlan, grids: np.ndarray, sizes: np.ndarray, data: DataConfig, crop: CropKind) -> np.ndarray:
    """The mean of the map over what each patch shows of the stored image: float32 [B, N], 0 to 1.

    Crop, mirror image, warps and mixing are followed. A patch that warps bring in counts as the box of the crop that it
    is made of; what lies beyond the image does not count, and a patch of nothing else scores 0. What is erased is not
    known here.

    Args:
        grids: uint8 [B, G, G], the maps of the plan's samples.
        sizes: int [B, 2], (height, width) of the stored images.
        crop: how the plan's crops are made.
    """
    regions = regions_of(plan, sizes, data, crop) * grids.shape[1]
    levels, _ = levels_of(plan.augment, plan.num_rows)
    partner, weights, boxes = mixing_of(plan)
    scores = np.empty((plan.num_rows, data.num_patches), np.float32)
    score_patches(grids, regions, plan.flips, levels, partner, weights, boxes, data.patch_size, scores)
    return scores


def chosen_ids(plan: StepPlan, settings: GraphSettings, samples: Samples, maps: ScoreMaps | None) -> np.ndarray | None:
    """The kept patches int32 [B, K] where no image has to be looked at; None under the other rules.

    Args:
        samples: the plan's. maps: of the same, under a rule that looks at score maps; else None.

    Raises:
        ValueError: see ``ScoreMaps.grids``.
    """
    assert (maps is not None) == settings.selection.needs_map
    settings = settings.at(plan.stage)
    num_kept, num_patches = plan.stage.num_kept, settings.data.num_patches
    if maps is None:
        return planned_ids(plan, settings)
    if num_kept == num_patches:
        return np.tile(np.arange(num_patches, dtype=np.int32), (plan.num_rows, 1))
    scores = map_scores(plan, maps.grids(plan.sample_ids), row_sizes(plan, samples), settings.data, settings.crop)
    return select(scores, plan.noise, num_kept, settings.data.grid_size, settings.selection)


def regions_of(plan: StepPlan, sizes: np.ndarray, data: DataConfig, crop: CropKind) -> np.ndarray:
    """The crops as shares of the stored images' heights and widths: float64 [B, 4], (top, left, bottom, right)."""
    if crop == "pad":  # counted in pixels of the resized image
        return plan.crops.astype(np.float64) / data.image_size
    assert crop in ("resized", "centre"), crop
    return plan.crops.astype(np.float64) / np.tile(sizes, 2)


def whole_scores(grids: np.ndarray, grid_size: int) -> np.ndarray:
    """The same of images that show all that their maps cover, and nothing is done to: float32 [B, N], 0 to 1.

    Args:
        grids: uint8 [B, G, G].
        grid_size: patches along one side of the image.
    """
    num_rows, cells, _ = grids.shape
    regions = np.tile(np.array([0, 0, cells, cells], np.float64), (num_rows, 1))
    levels, _ = levels_of(None, num_rows)
    alone, none = np.arange(num_rows), np.zeros((num_rows, 4), np.int32)
    scores = np.empty((num_rows, grid_size**2), np.float32)
    mirrored, ones = np.zeros(num_rows, bool), np.ones(num_rows, np.float32)
    score_patches(grids, regions, mirrored, levels, alone, ones, none, 1, scores)
    return scores
