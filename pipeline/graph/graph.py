"""The DALI graph: planned arrays in, kept patches out."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline, do_not_convert
from nvidia.dali.tensors import TensorCPU, TensorListCPU

from pipeline.config import DataConfig
from pipeline.graph import augmentation, compiled, nodes
from pipeline.graph.kernels.patches import WHOLE_FROM
from pipeline.graph.route import route_of
from pipeline.graph.rows import Choice, Mixing, kernel_rows, looks_at_all, mixing_of
from pipeline.graph.workers import kept_to_cores
from pipeline.plan.step import CropKind, Samples, StepPlan
from pipeline.selection.config import SelectionConfig, select

# The inputs of ``input_names``: one array per row each, or one for all rows.
SourceArrays = tuple[list[np.ndarray] | np.ndarray, ...]
LastPart = Literal["decode", "augment", "select"]

# Every planned input: its DALI type and number of dimensions.
_INPUTS = {
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
    **augmentation.INPUTS,
}

# Pixels decoded around a region for the resize's filter, which looks less than this far beyond it: one pixel of the
# output where the image shrinks, one stored pixel where it grows.
_MARGIN_PIXELS = 1.0
PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class GraphSettings:
    """What a graph is built for; a run has one for training and one for validation.

    Attributes:
        crop: how the plans that will flow through make their crops.
        batch_size: rows of the largest batch; smaller ones may flow through too.
        uniform_size: every image is already ``image_size`` square, so a pad crop needs no resize.
        device_id: the GPU under ``data.device: gpu``, else None.
        targets: the dropped patches come out as well, to be reconstructed.
        last_part: where the graph ends. What ends before the selection gives whole images and serves to measure what
            the parts of the work take.
        decoded: the images come decoded, as where some are kept for several steps. On a CPU.
        training: images are augmented as the configuration says; validation's are not.
    """

    data: DataConfig
    selection: SelectionConfig
    crop: CropKind
    batch_size: int
    num_threads: int
    uniform_size: bool = False
    device_id: int | None = None
    targets: bool = False
    last_part: LastPart = "select"
    decoded: bool = False
    training: bool = True

    @property
    def augments(self) -> bool:
        """Whether images are augmented beyond crop and flip, where the configuration says so."""
        return self.training and self.last_part != "decode"

    @property
    def selects_first(self) -> bool:
        """Whether patches are selected on the decoded crop, and only these are resampled."""
        route = route_of(self.data, self.selection)
        return self.device_id is None and route == "select_first"

    @property
    def mixes(self) -> bool:
        return self.augments and self.data.augment.mixes

    @property
    def makes_wholes(self) -> bool:
        """Whether some images are made whole before their patches are cut: for their operations, or for a partner."""
        return self.device_id is None and self.augments and (self.mixes or self.data.augment.auto is not None)

    @property
    def scores_behind(self) -> bool:
        """Whether patches are scored and chosen behind the graph: on a GPU, and where no kernel knows the rule."""
        rule = self.selection.of_rule
        return not self.selection.is_planned and (self.device_id is not None or rule.kernel is None)


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
    if on_gpu:
        used |= augmentation.input_names(settings.data.augment) if settings.augments else set()
    elif settings.last_part == "select" or (settings.last_part == "augment" and not settings.selects_first):
        used |= {"planned", "sizes"}
        used |= {"partner"} if settings.mixes else set()
        used |= {"side"} if settings.makes_wholes else set()
    return tuple(name for name in _INPUTS if name in used)


def source_arrays(plan: StepPlan, images: list[np.ndarray], settings: GraphSettings, sizes: np.ndarray) -> SourceArrays:
    """A plan as the graph's inputs.

    Args:
        images: the rows' image files, uint8 [bytes] each; under ``decoded`` whole images, uint8 [H, W, 3].
        sizes: int [B, 2], (height, width) of the stored images.
    """
    start, stop = window_corners(plan, settings, sizes)
    regions = (plan.crops - np.tile(start, 2)).astype(np.float32)
    arrays: dict[str, list[np.ndarray] | np.ndarray] = {
        "encoded": images,
        "window": _windows(images, start, stop, settings),
        "start": start,
        "shape": stop - start,
        "region_start": regions[:, :2].copy(),
        "region_end": regions[:, 2:].copy(),
        "flip": plan.flips.astype(np.int32),
    }
    names = input_names(settings)
    if settings.device_id is not None:
        arrays |= augmentation.augment_arrays(plan, settings.data)
    if "planned" in names:
        crops = None
        if settings.selects_first:
            given = 0 if settings.decoded else start  # where what the graph has of the image begins
            crops = regions, np.concatenate([start - given, stop - given], axis=1)
        mixing = mixing_of(plan)
        arrays["planned"] = kernel_rows(plan, settings.data, crops, _choice(plan, settings), mixing)
        arrays["partner"] = mixing[0].astype(np.int32)
        arrays["side"] = _sides(plan, settings, mixing) if settings.makes_wholes else []
        arrays["sizes"] = np.empty((plan.num_rows, *_num_patches(plan, settings), 0), np.uint8)
    return tuple(arrays[name] for name in names)


def _choice(plan: StepPlan, settings: GraphSettings) -> Choice:
    selection, grid_size = settings.selection, settings.data.grid_size
    if settings.last_part == "augment":
        return Choice(1)
    if settings.scores_behind:
        return Choice(grid_size)
    if selection.is_planned:
        return Choice(grid_size, ids=planned_ids(plan, settings))
    return Choice(grid_size, selection.of_rule.kernel, selection.temperature)


def _num_patches(plan: StepPlan, settings: GraphSettings) -> tuple[int, int, int]:
    """Patches that the graph on a CPU hands on as kept, others that it hands on, and the side of a patch."""
    data, num_kept = settings.data, plan.stage.num_kept
    if settings.last_part == "augment":
        return 1, 0, data.image_size  # the image in one piece
    if settings.scores_behind:
        return data.num_patches, 0, data.patch_size
    return num_kept, data.num_patches - num_kept if settings.targets else 0, data.patch_size


def planned_ids(plan: StepPlan, settings: GraphSettings) -> np.ndarray:
    """The kept patches int32 [B, K] under a rule that does not look at images."""
    return select(None, plan.noise, plan.stage.num_kept, settings.data.grid_size, settings.selection)


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
    """(height, width) of a plan's stored images: int [B, 2]."""
    ids = plan.sample_ids
    return np.stack([samples.height[ids], samples.width[ids]], axis=1)


def window_corners(plan: StepPlan, settings: GraphSettings, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the decoded (``resized``, ``centre``) or shifted (``pad``) window, whole pixels: int32 [B, 2] each."""
    crops = plan.crops.astype(np.float64)
    start, stop = crops[:, :2], crops[:, 2:]
    if settings.device_id is not None and settings.crop != "pad":  # whole images are decoded there
        start, stop = np.zeros_like(start), sizes
    elif settings.crop == "centre":
        # torchvision resizes the whole image before it cuts: the filter sees what lies beyond the crop. A random crop
        # is cut out first, and the filter sees nothing beyond it.
        margin = _MARGIN_PIXELS * np.maximum((stop - start) / settings.data.image_size, 1)
        start = np.maximum(np.floor(start - margin), 0)
        stop = np.minimum(np.ceil(stop + margin), sizes)
    return np.round(start).astype(np.int32), np.round(stop).astype(np.int32)


def _windows(
    images: list[np.ndarray], start: np.ndarray, stop: np.ndarray, settings: GraphSettings
) -> list[np.ndarray]:
    """What a graph of decoded images is given; with files it decodes the windows itself."""
    # Selecting first needs no cut: its kernel keeps to the window. A pad crop's window is one of the resized image.
    if not settings.decoded or settings.selects_first or settings.crop == "pad":
        return images
    corners = zip(images, start.tolist(), stop.tolist(), strict=True)
    return [np.ascontiguousarray(image[top:bottom, left:right]) for image, (top, left), (bottom, right) in corners]


def build_graph(source: Callable[[int], SourceArrays], settings: GraphSettings) -> Pipeline:
    """The graph of ``define_graph``, ready to run."""
    pipeline = define_graph(source, settings)
    with kept_to_cores(settings.num_threads):
        pipeline.build()
    return pipeline


def define_graph(source: Callable[[int], SourceArrays], settings: GraphSettings) -> Pipeline:
    """The graph fed by ``source(i)``, i = 0, 1, 2, ...; StopIteration from the source ends it.

    Outputs of ``run()``: on a CPU (patches uint8 [B, K, P*P*3], their ids int32 [B, K]), all of them where they are
    chosen behind the graph; with ``targets`` a third one, the dropped patches uint8 [B, N-K, P*P*3] in raster order.
    On a GPU (images uint8 [B, S, S, 3],), whose patches are chosen and gathered behind the graph. A graph that ends
    before the selection gives images.
    """
    on_gpu = settings.device_id is not None

    @pipeline_def(
        batch_size=settings.batch_size,
        num_threads=settings.num_threads,
        device_id=settings.device_id,
        exec_dynamic=True,
        prefetch_queue_depth=PREFETCHED_BATCHES,
        enable_conditionals=settings.augments and on_gpu and augmentation.needs_conditionals(settings.data.augment),
    )
    def graph() -> tuple[Any, ...]:
        # Conditionals rewrite the functions that are called here, Python's own branches and loops included. These have
        # no need of it.
        inputs = do_not_convert(_planned_inputs)(source, settings)
        if settings.selects_first:
            return do_not_convert(_patches)(_decoded(inputs, settings), inputs, settings)
        images = do_not_convert(_images)(inputs, settings)
        if not on_gpu:
            return do_not_convert(_patches)(images, inputs, settings)
        if settings.augments:
            images = augmentation.augmented(images, inputs, settings.data)
        return (images,)

    return graph()


def run_once(arrays: SourceArrays, settings: GraphSettings) -> None:
    """Send rows through a graph of their own and drop what comes out. Slow: it builds the graph.

    Raises:
        RuntimeError: the graph cannot process the rows.
    """

    def source(i: int) -> SourceArrays:
        if i > 0:
            raise StopIteration
        return arrays

    build_graph(source, replace(settings, batch_size=len(arrays[0]))).run()


def _planned_inputs(source: Callable[[int], SourceArrays], settings: GraphSettings) -> dict[str, Any]:
    names = input_names(settings)
    layouts = ["HWC" if name == "window" else "" for name in names]
    nodes = fn.external_source(
        source=_held(source, layouts),
        num_outputs=len(names),
        batch=True,
        dtype=[_INPUTS[name][0] for name in names],
        ndim=[_INPUTS[name][1] for name in names],
        no_copy=settings.device_id is None,  # to a GPU things are copied from memory that DALI has pinned
    )
    return dict(zip(names, nodes, strict=True))


def _held(source: Callable[[int], SourceArrays], layouts: list[str]) -> Callable[[int], Sequence[TensorListCPU]]:
    """The source as tensors. Its arrays live until DALI, which copies none of them, has used them."""
    recent: deque[SourceArrays] = deque(maxlen=PREFETCHED_BATCHES + 2)

    def held(i: int) -> list[TensorListCPU]:
        recent.append(tuple(one if isinstance(one, list) else np.ascontiguousarray(one) for one in source(i)))
        return [_as_tensors(arrays, layout) for arrays, layout in zip(recent[-1], layouts, strict=True)]

    return held


def _as_tensors(arrays: list[np.ndarray] | np.ndarray, layout: str) -> TensorListCPU:
    """What DALI would make of the arrays itself, in several times the time; nothing is copied."""
    if isinstance(arrays, np.ndarray):
        return TensorListCPU(arrays, layout)
    different = {id(array): array for array in arrays}
    tensors = dict(zip(different, map(TensorCPU, different.values()), strict=True))
    return TensorListCPU([tensors[key] for key in map(id, arrays)], layout, False)


def _images(inputs: Mapping[str, Any], settings: GraphSettings) -> Any:
    size = settings.data.image_size
    images = _decoded(inputs, settings)
    if settings.crop == "pad":
        if not settings.uniform_size:
            images = nodes.resize_whole(images, size)
        images = nodes.shift_with_border(images, inputs["start"], size)
    else:
        images = nodes.resize_region(images, inputs["region_start"], inputs["region_end"], size)
    return nodes.flip(images, inputs["flip"])


def _decoded(inputs: Mapping[str, Any], settings: GraphSettings) -> Any:
    """Whole images for a pad crop and on a GPU, else the windows around the crops."""
    if settings.decoded:
        return inputs["window"]
    encoded, on_gpu = inputs["encoded"], settings.device_id is not None
    if settings.crop == "pad" or on_gpu:
        return nodes.decode_whole(encoded, "mixed" if on_gpu else "cpu")
    return nodes.decode_window(encoded, inputs["start"], inputs["shape"])


def _patches(images: Any, inputs: Mapping[str, Any], settings: GraphSettings) -> tuple[Any, ...]:
    """On a CPU all that is left to do, of decoded images or of square ones."""
    if "planned" not in inputs:
        return (images,)
    planned, partners, wholes = inputs["planned"], images, [compiled.pixel()] * 2
    if settings.makes_wholes:
        wholes = [compiled.augment_whole(inputs["side"], images, planned)] * 2
    if settings.mixes:
        partners = fn.permute_batch(images, indices=inputs["partner"])
        wholes[1] = fn.permute_batch(wholes[0], indices=inputs["partner"])
    pictures, made = (images, partners), (wholes[0], wholes[1])
    patches, ids, others = compiled.augment_patches(inputs["sizes"], pictures, made, planned)
    if settings.last_part == "augment":
        return (fn.reshape(patches, shape=[settings.data.image_size, settings.data.image_size, 3]),)
    return (patches, ids, others) if settings.targets else (patches, ids)
