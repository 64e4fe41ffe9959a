"""The DALI graph: planned arrays in, kept patches out."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline, do_not_convert

from pipeline.config import DataConfig
from pipeline.graph import augmentation, compiled, nodes
from pipeline.graph.route import route_of
from pipeline.plan.step import CropKind, Samples, StepPlan
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.patches import gather_patches, ids_dropped

# The inputs of ``input_names``: one array per row each, or one for all rows.
SourceArrays = tuple[list[np.ndarray] | np.ndarray, ...]
LastPart = Literal["decode", "augment", "select"]
Scorer = Callable[[list[np.ndarray]], np.ndarray]  # images uint8 [S, S, 3] to float32 [B, N]

# Every planned input: its DALI type and number of dimensions.
_INPUTS = {
    "encoded": (types.UINT8, 1),  # the image file
    "window": (types.UINT8, 3),  # under ``decoded`` in its place: what would have been decoded from it, or the whole
    "start": (types.INT32, 1),  # (row, column) where the decoded or shifted window begins
    "shape": (types.INT32, 1),  # (height, width) of the decoded window
    "region_start": (types.FLOAT, 1),  # (row, column) of the crop's corners, counted from the window's
    "region_end": (types.FLOAT, 1),
    "flip": (types.INT32, 0),
    "sampling": (types.FLOAT, 1),  # all of the crop, the flip and the mixing, where patches are selected first
    "ids_keep": (types.INT32, 1),  # where a rule does not look at images; else only its length counts
    "noise": (types.FLOAT, 1),
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
        route = route_of(self.data, self.selection, targets=self.targets)
        return self.device_id is None and route == "select_first"

    @property
    def mixes(self) -> bool:
        return self.augments and self.data.augment.mixes


def input_names(settings: GraphSettings) -> tuple[str, ...]:
    """The planned inputs that this graph reads, in the order its source gives them."""
    on_gpu = settings.device_id is not None
    unused = set(augmentation.INPUTS) - (
        augmentation.input_names(settings.data.augment, on_gpu) if settings.augments else set()
    )
    unused.add("encoded" if settings.decoded else "window")
    if settings.selection.is_planned:
        unused.add("noise")
    elif on_gpu:
        unused.add("ids_keep")  # chosen behind the graph
    if settings.selects_first:
        unused |= {"region_start", "region_end", "flip", "blend_weight", "cut_box"}  # in "sampling"
    else:
        unused |= {"sampling"}
    if settings.crop == "pad":
        unused |= {"shape", "region_start", "region_end"}
    elif on_gpu or settings.decoded:
        unused |= {"start", "shape"}
    if settings.last_part != "select":
        unused |= {"noise", "ids_keep", "sampling", *(augmentation.INPUTS if settings.selects_first else ())}
    return tuple(name for name in _INPUTS if name not in unused)


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
        "ids_keep": _planned_ids(plan, settings),
        "noise": plan.noise,
        **augmentation.augment_arrays(plan, settings.data),
    }
    if settings.selects_first:
        selection = settings.selection
        mixing = None
        if settings.mixes and plan.augment is not None:
            partner, weight, box = (np.array(arrays[name]) for name in ("partner", "blend_weight", "cut_box"))
            mixing = partner, weight, box
        scoring = settings.data.grid_size, selection.temperature, selection.of_rule.kernel
        given = 0 if settings.decoded else start  # where what the graph has of the image begins
        windows = np.concatenate([start - given, stop - given], axis=1)
        arrays["sampling"] = compiled.sampling_rows(regions, windows, plan.flips, scoring, mixing)
    return tuple(arrays[name] for name in input_names(settings))


def _planned_ids(plan: StepPlan, settings: GraphSettings) -> np.ndarray:
    """The kept patches int32 [B, K] under a rule that does not look at images, else zeros of that shape."""
    num_kept = plan.stage.num_kept
    if settings.selection.is_planned:
        return select(None, plan.noise, num_kept, settings.data.grid_size, settings.selection)
    return np.zeros((plan.num_rows, num_kept), dtype=np.int32)


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


def build_graph(
    source: Callable[[int], SourceArrays], settings: GraphSettings, scorer: Scorer | None = None
) -> Pipeline:
    """The graph of ``define_graph``, ready to run."""
    pipeline = define_graph(source, settings, scorer)
    pipeline.build()
    return pipeline


def define_graph(
    source: Callable[[int], SourceArrays], settings: GraphSettings, scorer: Scorer | None = None
) -> Pipeline:
    """The graph fed by ``source(i)``, i = 0, 1, 2, ...; StopIteration from the source ends it.

    Args:
        scorer: for rules that no kernel scores, on a CPU.

    Outputs of ``run()``: on a CPU (patches uint8 [B, K, P*P*3], ids_keep int32 [B, K]); with a GPU (images uint8
    [B, S, S, 3] on the GPU, ids_keep int32 [B, K] on the CPU), whose patches are gathered on the GPU, or for a rule
    that looks at images (images, noise float32 [B, C] on the CPU), whose patches are also selected there.
    With ``targets`` on a CPU a third one, the dropped patches uint8 [B, N-K, P*P*3] in raster order. A graph that ends
    before the selection has one output, the images uint8 [B, S, S, 3].
    """
    on_gpu = settings.device_id is not None

    @pipeline_def(
        batch_size=settings.batch_size,
        num_threads=settings.num_threads,
        device_id=settings.device_id,
        exec_dynamic=True,
        prefetch_queue_depth=PREFETCHED_BATCHES,
        enable_conditionals=settings.augments and augmentation.needs_conditionals(settings.data.augment, on_gpu),
    )
    def graph() -> tuple[Any, ...]:
        # Conditionals rewrite the functions that are called here, Python's own branches and loops included. These have
        # no need of it, and what they hand to python_function would run slower.
        inputs = do_not_convert(_planned_inputs)(source, settings)
        if settings.selects_first:
            return do_not_convert(_selected_first)(inputs, settings)
        images = do_not_convert(_images)(inputs, settings)
        if settings.augments:
            images = augmentation.augmented(images, inputs, settings.data, on_gpu)
        return do_not_convert(_outputs)(images, inputs, settings, scorer)

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

    def score_alike(images: list[np.ndarray]) -> np.ndarray:
        return np.zeros((len(images), settings.data.num_patches), dtype=np.float32)

    build_graph(source, replace(settings, batch_size=len(arrays[0])), score_alike).run()


def _planned_inputs(source: Callable[[int], SourceArrays], settings: GraphSettings) -> dict[str, Any]:
    names = input_names(settings)
    nodes = fn.external_source(
        source=_held(source) if settings.decoded else source,
        num_outputs=len(names),
        batch=True,
        dtype=[_INPUTS[name][0] for name in names],
        ndim=[_INPUTS[name][1] for name in names],
        layout=["HWC" if name == "window" else "" for name in names],
        no_copy=settings.decoded,  # image files are small, and copying them is faster
    )
    return dict(zip(names, nodes, strict=True))


def _held(source: Callable[[int], SourceArrays]) -> Callable[[int], SourceArrays]:
    """The source, whose arrays live until DALI, which copies none of them, has used them."""
    recent: deque[SourceArrays] = deque(maxlen=PREFETCHED_BATCHES + 2)

    def held(i: int) -> SourceArrays:
        recent.append(source(i))
        return recent[-1]

    return held


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


def _selected_first(inputs: Mapping[str, Any], settings: GraphSettings) -> tuple[Any, ...]:
    """(patches, ids_keep) of images that are never resized as a whole."""
    images = _decoded(inputs, settings)
    if settings.last_part != "select":
        return (images,)
    partners = fn.permute_batch(images, indices=inputs["partner"]) if settings.mixes else images
    ids, sampling = inputs["ids_keep"], inputs["sampling"]
    noise = inputs.get("noise", sampling)  # a planned rule reads none, but the kernel takes something
    return compiled.select_then_resample(images, partners, ids, sampling, noise, settings.data.patch_size)


def _outputs(images: Any, inputs: Mapping[str, Any], settings: GraphSettings, scorer: Scorer | None) -> tuple[Any, ...]:
    if settings.last_part != "select":
        return (images,)
    if settings.device_id is not None:
        return images, inputs["ids_keep" if settings.selection.is_planned else "noise"]
    data = settings.data
    ids_keep = _selected(images, inputs, settings, scorer)
    patches = compiled.gather(images, ids_keep, data.patch_size)
    return (patches, ids_keep, _targets(images, ids_keep, data)) if settings.targets else (patches, ids_keep)


def _selected(images: Any, inputs: Mapping[str, Any], settings: GraphSettings, scorer: Scorer | None) -> Any:
    """The ids of the patches that are kept of images on the CPU, int32 [K]."""
    data, selection, ids_keep = settings.data, settings.selection, inputs["ids_keep"]
    if selection.is_planned:
        return ids_keep
    noise, kernel = inputs["noise"], selection.of_rule.kernel
    if kernel is not None:
        return compiled.keep_best(kernel, images, ids_keep, noise, selection.temperature, data.patch_size)

    def score_and_rank(images: list[np.ndarray], noise: list[np.ndarray], ids: list[np.ndarray]) -> list[np.ndarray]:
        assert scorer is not None
        num_kept, shape = len(ids[0]), (len(images), data.num_patches)
        scores = np.zeros(shape) if num_kept == data.num_patches else scorer(images)
        return list(select(scores, np.stack(noise), num_kept, data.grid_size, selection))

    return fn.python_function(images, noise, ids_keep, function=score_and_rank, batch_processing=True)


def _targets(images: Any, ids_keep: Any, data: DataConfig) -> Any:
    """The patches of uint8 [B, S, S, 3] that are not among ``ids_keep``, uint8 [B, N-K, P*P*3] in raster order."""

    def gather_rest(images: list[np.ndarray], ids_keep: list[np.ndarray]) -> list[np.ndarray]:
        rest = ids_dropped(np.stack(ids_keep), data.num_patches)
        return [gather_patches(image, ids, data.patch_size) for image, ids in zip(images, rest, strict=True)]

    return fn.python_function(images, ids_keep, function=gather_rest, batch_processing=True)
