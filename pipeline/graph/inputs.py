"""Plans as the graph's inputs: arrays, one for each of them, and what they are made from."""

import numpy as np
from nvidia.dali import types

from pipeline.graph import augmentation
from pipeline.graph.kernels.patches import WHOLE_FROM
from pipeline.graph.rows import Choice, Mixing, kernel_rows, looks_at_all, mixing_of
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import Samples, Sizes, StepPlan
from pipeline.selection.config import select
from pipeline.shards.index import ShardIndex

# The inputs of ``input_names``: one array per row each, or one for all rows.
SourceArrays = tuple[list[np.ndarray] | np.ndarray, ...]

# Every planned input: its DALI type and number of dimensions.
INPUTS = {
    "encoded": (types.UINT8, 1),  # the image file
    "window": (types.UINT8, 3),  # under ``decoded`` in its place: what would have been decoded from it, or the whole
    "start": (types.INT32, 1),  # (row, column) where the decoded or shifted window begins
    "shape": (types.INT32, 1),  # (height, width) of the decoded window
    "region_start": (types.FLOAT, 1),  # (row, column) of the crop's corners, counted from the window's
    "region_end": (types.FLOAT, 1),
    "flip": (types.INT32, 0),
    "planned": (types.FLOAT, 1),  # all that the kernels are told, see ``rows.kernel_rows``
    # These hold nothing: what counts is their shape.
    "side": (types.UINT8, 2),  # as long as the image is to be made whole, or 1
    "sizes": (types.UINT8, 4),  # patches kept, others that are wanted, side of a patch
    "square": (types.INT32, 1),  # (height, width) of the square image, where they vary
    **augmentation.INPUTS,
}

# Pixels decoded around a region for the resize's filter, which looks less than this far beyond it: one pixel of the
# output where the image shrinks, one stored pixel where it grows.
_MARGIN_PIXELS = 1.0


def input_names(settings: GraphSettings) -> tuple[str, ...]:
    """The planned inputs that this graph reads, in the order its source gives them."""
    on_gpu = settings.device_id is not None
    used = {"window" if settings.decoded else "encoded", "start", "shape", "region_start", "region_end", "flip"}
    if settings.selects_first:
        used -= {"region_start", "region_end", "flip"}  # in "planned"
    if settings.crop == "pad":
        used -= {"shape", "region_start", "region_end"}
    elif on_gpu or settings.decoded:
        used -= {"start", "shape"}
    if settings.sizes_vary and (settings.last_part == "augment" or not settings.selects_first):
        used |= {"square"}
    if on_gpu:
        used |= augmentation.input_names(settings.data.augment) if settings.augments else set()
    elif settings.last_part == "select" or (settings.last_part == "augment" and not settings.selects_first):
        used |= {"planned", "sizes"}
        used |= {"partner"} if settings.mixes else set()
        used |= {"side"} if settings.makes_wholes else set()
    return tuple(name for name in INPUTS if name in used)


def source_arrays(
    plan: StepPlan,
    images: list[np.ndarray],
    settings: GraphSettings,
    sizes: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    origins: np.ndarray | None = None,
    told: np.ndarray | None = None,
) -> SourceArrays:
    """A plan as the graph's inputs.

    Args:
        images: the rows' image files, uint8 [bytes] each; under ``decoded`` whole images, uint8 [H, W, 3].
        sizes: of ``file_sizes``.
        ids: of ``score_maps.chosen_ids``; by default of ``planned_ids``.
        origins: int32 [B, 2], pixels of the stored images at which the given ones begin; by default all at 0.
        told: of ``told_rows``; worked out by default.
    """
    settings = settings.at(plan.stage)
    start, stop = window_corners(plan, settings, sizes)
    begin = 0 if origins is None else origins
    on_gpu = settings.device_id is not None
    regions = (plan.stored_crops - np.tile(start + begin if on_gpu else start, 2)).astype(np.float32)
    arrays: dict[str, list[np.ndarray] | np.ndarray] = {
        "encoded": images,
        "window": _windows(images, start, stop, settings),
        "start": start - begin,
        "shape": stop - start,
        "region_start": regions[:, :2].copy(),
        "region_end": regions[:, 2:].copy(),
        "flip": plan.flips.astype(np.int32),
        "square": np.full((plan.num_rows, 2), settings.data.image_size, np.int32),
    }
    names = input_names(settings)
    if on_gpu:
        arrays |= augmentation.augment_arrays(plan, settings.data)
    if "planned" in names:
        mixing = mixing_of(plan)
        ids = planned_ids(plan, settings) if ids is None else ids
        arrays["planned"] = told_rows(plan, settings, sizes, ids) if told is None else told
        arrays["partner"] = mixing[0].astype(np.int32)
        arrays["side"] = _sides(plan, settings, mixing) if settings.makes_wholes else []
        arrays["sizes"] = np.empty((plan.num_rows, *_num_patches(plan, settings), 0), np.uint8)
    return tuple(arrays[name] for name in names)


def handed_bytes(arrays: SourceArrays) -> int:
    """The bytes of all that a graph is handed for a batch."""
    return sum(array.nbytes for one in arrays for array in (one if isinstance(one, list) else (one,)))


def told_rows(plan: StepPlan, settings: GraphSettings, sizes: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """What the graph's kernels are told of each row: float32 [B, R], of ``rows.kernel_rows``.

    Args:
        ids: of ``score_maps.chosen_ids``.
    """
    crops, settings = None, settings.at(plan.stage)
    if settings.selects_first:
        start, stop = window_corners(plan, settings, sizes)
        crops = _crops_in_windows(plan, start, stop, 0 if settings.decoded else start)
    return kernel_rows(plan, settings.data, crops, _choice(settings, ids), mixing_of(plan))


def needed_rows(plan: StepPlan, settings: GraphSettings, sizes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """What tells the pixels that the kept patches are made from: ``told_rows`` of a graph that selects first.

    Args:
        ids: of ``score_maps.chosen_ids``, int32 [B, K].
    """
    start, stop = seen_corners(plan, settings, sizes)
    crops, data = _crops_in_windows(plan, start, stop, start), settings.at(plan.stage).data
    return kernel_rows(plan, data, crops, Choice(data.grid_size, ids=ids), mixing_of(plan))


def _crops_in_windows(
    plan: StepPlan, start: np.ndarray, stop: np.ndarray, given: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Regions and windows as ``rows.kernel_rows`` takes them; given: where what the graph has of the image begins."""
    regions = (plan.stored_crops - np.tile(start, 2)).astype(np.float32)
    return regions, np.concatenate([start - given, stop - given], axis=1)


def _choice(settings: GraphSettings, ids: np.ndarray | None) -> Choice:
    selection, grid_size = settings.selection, settings.data.grid_size
    if settings.last_part == "augment":
        return Choice(1)
    if settings.scores_behind:
        return Choice(grid_size)
    if ids is not None:
        return Choice(grid_size, ids=ids)
    assert selection.of_rule.kernel is not None, "chosen before an image is read, and not handed on"
    return Choice(grid_size, selection.of_rule.kernel, selection.temperature)


def _num_patches(plan: StepPlan, settings: GraphSettings) -> tuple[int, int, int]:
    """Patches that the graph on a CPU hands on as kept, others that it hands on, and the side of a patch."""
    data, num_kept = settings.data, plan.stage.num_kept
    if settings.last_part == "augment":
        return 1, 0, data.image_size  # the image in one piece
    if settings.scores_behind:
        return data.num_patches, 0, data.patch_size
    return num_kept, data.num_patches - num_kept if settings.targets else 0, data.patch_size


def planned_ids(plan: StepPlan, settings: GraphSettings) -> np.ndarray | None:
    """The kept patches int32 [B, K] under a rule that looks at nothing but the plan; None under the others."""
    if not settings.selection.is_planned:
        return None
    grid_size = settings.at(plan.stage).data.grid_size
    return select(None, plan.noise, plan.stage.num_kept, grid_size, settings.selection)


def _sides(plan: StepPlan, settings: GraphSettings, mixing: Mixing) -> list[np.ndarray]:
    """Which images are made whole, as arrays that hold nothing: uint8 [S, 0], or [1, 0] where not.

    Those whose operations look at all of them, and where most patches are wanted those that are mixed: they serve two
    rows.
    """
    data = settings.data
    everything = settings.targets or settings.scores_behind or settings.last_part == "augment"
    num_made = data.num_patches if everything else plan.stage.num_kept
    whole, pixel = np.empty((data.image_size, 0), np.uint8), np.empty((1, 0), np.uint8)
    wanted = looks_at_all(plan.augment, plan.num_rows)
    if settings.mixes and num_made >= WHOLE_FROM * data.num_patches:
        _, weights, boxes = mixing
        wanted |= (weights < 1) | (boxes[:, 2] > boxes[:, 0])
    return [whole if one else pixel for one in wanted]


def row_sizes(plan: StepPlan, samples: Samples) -> np.ndarray:
    """(height, width) of a plan's images at full size: int [B, 2]."""
    return _sizes(samples, plan.sample_ids)


def file_sizes(plan: StepPlan, index: ShardIndex) -> np.ndarray:
    """(height, width) of a plan's images as they are read, at the planned levels: int [B, 2]."""
    return _sizes(index.files, plan.file_ids(len(index.shard)))


def _sizes(samples: Sizes, ids: np.ndarray) -> np.ndarray:
    return np.stack([samples.height[ids], samples.width[ids]], axis=1)


def window_corners(plan: StepPlan, settings: GraphSettings, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the decoded (``resized``, ``centre``) or shifted (``pad``) window, whole pixels: int32 [B, 2] each."""
    crops = plan.stored_crops.astype(np.float64)
    start, stop = crops[:, :2], crops[:, 2:]
    if settings.device_id is not None and settings.crop != "pad":  # whole images are decoded there
        start, stop = np.zeros_like(start), sizes
    elif settings.crop == "centre":
        # torchvision resizes the whole image before it cuts: the filter sees what lies beyond the crop. A random crop
        # is cut out first, and the filter sees nothing beyond it.
        start, stop = _with_margin(start, stop, settings.at(plan.stage), sizes)
    return np.floor(start).astype(np.int32), np.ceil(stop).astype(np.int32)


def seen_corners(plan: StepPlan, settings: GraphSettings, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of what is seen of the stored images, as ``window_corners`` gives them: not more on a GPU either."""
    if settings.device_id is None:
        return window_corners(plan, settings, sizes)
    # There whole images are decoded and the crop is cut out in the resize, whose filter sees beyond it.
    crops = plan.stored_crops.astype(np.float64)
    start, stop = _with_margin(crops[:, :2], crops[:, 2:], settings.at(plan.stage), sizes)
    return start.astype(np.int32), stop.astype(np.int32)


def _with_margin(
    start: np.ndarray, stop: np.ndarray, settings: GraphSettings, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners of regions with the pixels around them that a resize's filter looks at: whole numbers, float64 [B, 2]."""
    margin = _MARGIN_PIXELS * np.maximum((stop - start) / settings.data.image_size, 1)
    return np.maximum(np.floor(start - margin), 0), np.minimum(np.ceil(stop + margin), sizes)


def _windows(
    images: list[np.ndarray], start: np.ndarray, stop: np.ndarray, settings: GraphSettings
) -> list[np.ndarray]:
    """What a graph of decoded images is given; with files it decodes the windows itself."""
    # Selecting first needs no cut: its kernel keeps to the window. A pad crop's window is one of the resized image.
    if not settings.decoded or settings.selects_first or settings.crop == "pad":
        return images
    corners = zip(images, start.tolist(), stop.tolist(), strict=True)
    return [np.ascontiguousarray(image[top:bottom, left:right]) for image, (top, left), (bottom, right) in corners]
