"""The part of a GPU's graph between the flip and the selection: operations, jitter, mixing and erasing by DALI.

Plans are those of a CPU, where compiled kernels carry them out (``pipeline/graph/kernels``). Which operations differ,
and by what, stands in ``nodes.DIFFERENCES``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvidia.dali import types
from nvidia.dali.pipeline import do_not_convert

from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph import nodes
from pipeline.graph.rows import mean_color, mixing_of
from pipeline.operations import OPERATIONS
from pipeline.plan.augmentation import num_auto_ops
from pipeline.plan.erasing import box_noise, noise_tables
from pipeline.plan.step import StepPlan

Node = Any

# Every planned input of this part: its DALI type and number of dimensions. Only those in use enter a graph.
INPUTS = {
    "auto_ops": (types.INT32, 1),
    "auto_values": (types.FLOAT, 1),
    "auto_matrices": (types.FLOAT, 3),  # of the warps, [L, 2, 3], in pixels
    "jitter": (types.FLOAT, 1),
    "partner": (types.INT32, 0),  # place in the micro batch
    "blend_weight": (types.FLOAT, 0),  # an image's own share under mixup, else 1
    # Boxes as (row, column) of their corner and (height, width).
    "paste_ids": (types.INT32, 1),
    "paste_anchors": (types.INT32, 2),
    "paste_shapes": (types.INT32, 2),
    "erase_noise": (types.UINT8, 3),  # what fills the erased box; a single black pixel where there is none
    "erase_start": (types.FLOAT, 1),
    "erase_shape": (types.FLOAT, 1),
}


def input_names(augment: AugmentConfig) -> set[str]:
    """The inputs that training images need."""
    names: set[str] = set()
    if augment.auto is not None:
        names |= {"auto_ops", "auto_values", "auto_matrices"}
    if augment.color_jitter > 0:
        names |= {"jitter"}
    names |= {"partner", "blend_weight"} if augment.blends else set()
    names |= {"paste_ids", "paste_anchors", "paste_shapes"} if augment.pastes else set()
    if augment.erase_probability > 0:
        names |= {"erase_start", "erase_shape"} | ({"erase_noise"} if augment.erase_mode == "pixel" else set())
    return names


def needs_conditionals(augment: AugmentConfig) -> bool:
    """Whether images of one batch take different ways through the operators."""
    return augment.auto is not None


def augment_arrays(plan: StepPlan, data: DataConfig) -> dict[str, list[np.ndarray] | np.ndarray]:
    """The planned inputs by name, those of what is on."""
    planned = plan.augment
    arrays: dict[str, list[np.ndarray] | np.ndarray] = {}
    if planned is None:
        return arrays
    if planned.auto_ops is not None and planned.auto_values is not None:
        arrays["auto_ops"], arrays["auto_values"] = planned.auto_ops, planned.auto_values
        arrays["auto_matrices"] = warp_matrices(planned.auto_ops, planned.auto_values, data.image_size)
    if planned.jitter is not None:
        arrays["jitter"] = planned.jitter
    if planned.mix_weights is not None:
        places = np.arange(plan.num_rows)
        partner, weights, boxes = mixing_of(plan)
        start, shape = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        cut = shape[:, 0] > 0
        arrays["partner"], arrays["blend_weight"] = partner.astype(np.int32), weights
        whole = np.broadcast_to(np.int32(data.image_size), shape.shape)
        arrays["paste_ids"] = np.stack([places, np.where(cut, partner, places)], axis=1).astype(np.int32)
        arrays["paste_anchors"] = np.stack([np.zeros_like(start), start], axis=1)
        arrays["paste_shapes"] = np.stack([whole, np.where(cut[:, None], shape, whole)], axis=1)
    if planned.erase_boxes is not None:
        start, shape = planned.erase_boxes[:, :2], planned.erase_boxes[:, 2:] - planned.erase_boxes[:, :2]
        arrays["erase_start"], arrays["erase_shape"] = start.astype(np.float32), shape.astype(np.float32)
        if planned.erase_keys is not None:
            tables, nothing = noise_tables(data.mean, data.std), np.zeros((1, 1, 3), dtype=np.uint8)
            arrays["erase_noise"] = [
                box_noise(int(key), int(height), int(width), tables) if height else nothing
                for key, (height, width) in zip(planned.erase_keys, shape, strict=True)
            ]
    return arrays


def warp_matrices(ops: np.ndarray, values: np.ndarray, image_size: int) -> np.ndarray:
    """Of the warps, in pixels, from places in the new image to those in the old: float32 [B, L, 2, 3]."""
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (*ops.shape, 1, 1))
    half = image_size / 2
    for number, operation in enumerate(OPERATIONS.values()):
        here = ops == number
        if operation.kind == "affine" and here.any():
            assert operation.numbers is not None
            found = operation.numbers(values[here].astype(np.float64)).reshape(-1, 2, 3)
            found[..., 2] = found[..., 2] * image_size + half - found[..., :2].sum(axis=-1) * half
            matrices[here] = found
    return matrices


def augmented(images: Node, inputs: Mapping[str, Node], data: DataConfig, square: Node | None = None) -> Node:
    """Training images after all that stands between flip and selection: uint8 [S, S, 3] in and out.

    Args:
        square: int32 [2], (height, width) of each image, where they are not ``data.image_size``.
    """
    settings, size = data.augment, data.image_size if square is None else square
    if settings.auto is not None:
        operations = do_not_convert(nodes.auto_operations)(settings.auto, data)
        ops, values, matrices = inputs["auto_ops"], inputs["auto_values"], inputs["auto_matrices"]
        for level in range(num_auto_ops(settings.auto)):
            images = nodes.auto_augment(images, operations, ops[level], values[level], matrices[level])
    if settings.color_jitter > 0:
        images = nodes.jitter_colors(images, inputs["jitter"])
    if settings.blends:
        images = nodes.blend(images, inputs["partner"], inputs["blend_weight"])
    if settings.pastes:
        ids, anchors, shapes = inputs["paste_ids"], inputs["paste_anchors"], inputs["paste_shapes"]
        images = nodes.paste_boxes(images, ids, anchors, shapes, size)
    if settings.erase_probability > 0:
        start, shape = inputs["erase_start"], inputs["erase_shape"]
        if settings.erase_mode == "pixel":
            return nodes.fill_boxes_with_noise(images, inputs["erase_noise"], start, shape, size)
        return nodes.fill_boxes(images, start, shape, mean_color(data).tolist())
    return images
