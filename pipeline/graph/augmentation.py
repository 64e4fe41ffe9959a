"""The part of the graph between the flip and the selection: automatic augmentation, jitter, mixing and erasing.

Mixing and erasing are NumPy on a CPU, where DALI's arithmetic takes ten times as long, and DALI's operators on a GPU.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph import nodes
from pipeline.plan.erasing import box_noise, erased_images, noise_tables
from pipeline.plan.mixing import mixed_images, partners
from pipeline.plan.step import StepPlan

Node = Any

# Every planned input of this part: its DALI type and number of dimensions. Only those in use enter a graph.
INPUTS = {
    "auto_ops": (types.INT32, 1),
    "auto_bins": (types.INT32, 1),
    "auto_signs": (types.INT32, 1),
    "jitter": (types.FLOAT, 1),
    "partner": (types.INT32, 0),  # place in the micro batch
    "blend_weight": (types.FLOAT, 0),  # an image's own share under mixup, else 1
    "cut_box": (types.INT32, 1),  # (top, left, bottom, right), as in the plan
    "erase_box": (types.INT32, 1),
    "erase_noise": (types.UINT8, 3),  # what fills the erased box; a single pixel where there is none
    # The same for DALI's operators on a GPU: boxes as (row, column) of their corner and (height, width).
    "paste_ids": (types.INT32, 1),
    "paste_anchors": (types.INT32, 2),
    "paste_shapes": (types.INT32, 2),
    "erase_start": (types.FLOAT, 1),
    "erase_shape": (types.FLOAT, 1),
    "noise_anchors": (types.INT32, 2),
    "erased": (types.INT32, 0),
}


def input_names(augment: AugmentConfig, on_gpu: bool) -> set[str]:
    """The inputs that training images need."""
    names: set[str] = set()
    if augment.auto is not None:
        names |= {"auto_ops", "auto_bins", "auto_signs"}
    if augment.color_jitter > 0:
        names |= {"jitter"}
    if augment.mixes:
        if not on_gpu:
            names |= {"partner", "blend_weight", "cut_box"}
        else:
            names |= {"partner", "blend_weight"} if augment.mixup > 0 else set()
            names |= {"paste_ids", "paste_anchors", "paste_shapes"} if augment.cutmix > 0 else set()
    if augment.erase_probability > 0:
        noisy = augment.erase_mode == "pixel"
        if not on_gpu:
            names |= {"erase_box", *(["erase_noise"] if noisy else [])}
        else:
            names |= {"erase_noise", "noise_anchors", "erased"} if noisy else {"erase_start", "erase_shape"}
    return names


def needs_conditionals(augment: AugmentConfig, on_gpu: bool) -> bool:
    """Whether images of one batch take different ways through the operators."""
    return augment.auto is not None or (on_gpu and augment.erase_probability > 0 and augment.erase_mode == "pixel")


def augment_arrays(plan: StepPlan, data: DataConfig) -> dict[str, list[np.ndarray]]:
    """The planned inputs by name, one array per row each. Those for a GPU are among them wherever the graph runs."""
    planned, arrays = plan.augment, dict[str, list[np.ndarray]]()
    if planned is None:
        return arrays
    for name in ("auto_ops", "auto_bins", "auto_signs", "jitter"):
        values = getattr(planned, name)
        if values is not None:
            arrays[name] = list(values)
    if planned.mix_weights is not None and planned.cut_boxes is not None:
        places = np.arange(plan.num_rows)
        partner = partners(plan.first_row, plan.num_rows)
        start, shape = _corner_and_shape(planned.cut_boxes)
        cut = shape[:, 0] > 0
        arrays["partner"] = list(partner.astype(np.int32))
        # A row whose partner is not here is looked at alone, as when a decoder's error is traced: it stays unmixed.
        arrays["blend_weight"] = list(np.where(cut | (partner == places), 1, planned.mix_weights).astype(np.float32))
        arrays["cut_box"] = list(planned.cut_boxes)
        whole = np.broadcast_to(np.int32(data.image_size), shape.shape)
        arrays["paste_ids"] = list(np.stack([places, np.where(cut, partner, places)], axis=1).astype(np.int32))
        arrays["paste_anchors"] = list(np.stack([np.zeros_like(start), start], axis=1))
        arrays["paste_shapes"] = list(np.stack([whole, np.where(cut[:, None], shape, whole)], axis=1))
    if planned.erase_boxes is not None:
        start, shape = _corner_and_shape(planned.erase_boxes)
        arrays["erase_box"] = list(planned.erase_boxes)
        arrays["erase_start"], arrays["erase_shape"] = list(start.astype(np.float32)), list(shape.astype(np.float32))
        arrays["noise_anchors"] = list(np.stack([np.zeros_like(start), start], axis=1))
        arrays["erased"] = list((shape[:, 0] > 0).astype(np.int32))
        if planned.erase_keys is not None:
            tables, nothing = noise_tables(data.mean, data.std), np.zeros((1, 1, 3), dtype=np.uint8)
            arrays["erase_noise"] = [
                box_noise(int(key), int(height), int(width), tables) if height else nothing
                for key, (height, width) in zip(planned.erase_keys, shape, strict=True)
            ]
    return arrays


def _corner_and_shape(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boxes[:, :2], boxes[:, 2:] - boxes[:, :2]


def augmented(images: Node, inputs: Mapping[str, Node], data: DataConfig, on_gpu: bool) -> Node:
    """Training images after all that stands between flip and selection: uint8 [S, S, 3] in and out."""
    settings, size = data.augment, data.image_size
    if settings.auto is not None:
        operations = do_not_convert(nodes.auto_operations)(settings.auto.kind)
        for level in range(num_auto_ops(settings)):
            op, strength, sign = inputs["auto_ops"], inputs["auto_bins"], inputs["auto_signs"]
            images = nodes.auto_augment(images, operations, op[level], strength[level], sign[level], size)
    if settings.color_jitter > 0:
        images = nodes.jitter_colors(images, inputs["jitter"])
    if not on_gpu:
        return do_not_convert(_mixed_and_erased)(images, inputs, data)
    if settings.mixes and settings.mixup > 0:
        images = nodes.blend(images, inputs["partner"], inputs["blend_weight"])
    if settings.mixes and settings.cutmix > 0:
        ids, anchors, shapes = inputs["paste_ids"], inputs["paste_anchors"], inputs["paste_shapes"]
        images = nodes.paste_boxes(images, ids, anchors, shapes, size)
    if settings.erase_probability > 0 and settings.erase_mode == "pixel":
        images = nodes.paste_noise(images, inputs["erase_noise"], inputs["noise_anchors"], inputs["erased"], size)
    elif settings.erase_probability > 0:
        images = nodes.fill_boxes(images, inputs["erase_start"], inputs["erase_shape"], mean_color(data).tolist())
    return images


def num_auto_ops(augment: AugmentConfig) -> int:
    """Operations in a row on each image."""
    if augment.auto is None:
        return 0
    return augment.auto.num_ops if augment.auto.kind == "randaugment" else 1


def mean_color(data: DataConfig) -> np.ndarray:
    """``data.mean`` as a pixel: uint8 [3]."""
    return np.rint(255 * np.array(data.mean)).astype(np.uint8)


def _mixed_and_erased(images: Node, inputs: Mapping[str, Node], data: DataConfig) -> Node:
    settings = data.augment
    mixing = [inputs[name] for name in ("partner", "blend_weight", "cut_box")] if settings.mixes else []
    erasing = [inputs[name] for name in ("erase_box", "erase_noise") if name in inputs]
    if not (mixing or erasing):
        return images
    color = mean_color(data)

    def mix_and_erase(images: list[np.ndarray], *others: list[np.ndarray]) -> list[np.ndarray]:
        if mixing:
            images = mixed_images(images, *others[:3])
        if erasing:
            boxes, *noise = others[len(mixing) :]
            images = erased_images(images, boxes, noise[0] if noise else color)
        return images

    return fn.python_function(
        images, *mixing, *erasing, function=mix_and_erase, batch_processing=True, output_layouts="HWC"
    )
