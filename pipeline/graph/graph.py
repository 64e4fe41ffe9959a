"""The DALI graph: planned arrays in, kept patches out."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def
from nvidia.dali.pipeline import Pipeline, do_not_convert
from nvidia.dali.tensors import TensorCPU, TensorListCPU

from pipeline.graph import augmentation, compiled, decoding, nodes
from pipeline.graph.inputs import INPUTS, SourceArrays, input_names
from pipeline.graph.settings import GraphSettings
from pipeline.graph.workers import kept_to_cores

PREFETCHED_BATCHES = 2


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
            images = augmentation.augmented(images, inputs, settings.data, inputs.get("square"))
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
        dtype=[INPUTS[name][0] for name in names],
        ndim=[INPUTS[name][1] for name in names],
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
    size = inputs.get("square", settings.data.image_size)
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
        return decoding.decode_whole(encoded, "mixed" if on_gpu else "cpu")
    return decoding.decode_window(encoded, inputs["start"], inputs["shape"])


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
        side = settings.data.image_size
        shape = fn.cat(inputs["square"], np.array([3], np.int32)) if settings.sizes_vary else [side, side, 3]
        return (fn.reshape(patches, shape=shape),)
    return (patches, ids, others) if settings.targets else (patches, ids)
