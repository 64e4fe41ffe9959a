"""What the compiled kernels are told of every image: a row of numbers and the tables of its operations."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.config import DataConfig
from pipeline.graph.kernels import chain, sampling
from pipeline.operations import OPERATIONS
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.erasing import noise_tables
from pipeline.plan.mixing import partners
from pipeline.plan.step import StepPlan

_KINDS = {
    "nothing": chain.NOTHING,
    "affine": chain.AFFINE,
    "table": chain.TABLE,
    "grey": chain.GREY,
    "smoothed": chain.SMOOTHED,
    "blur": chain.BLUR,
    "contrast": chain.CONTRAST,
    "stretch": chain.STRETCH,
    "equalize": chain.EQUALIZE,
}
# How the kernels know the rules that they score.
SCORES = {"contrast": 1}
_GREY = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
_LOOKS_AT_ALL = np.array([operation.looks_at_all for operation in OPERATIONS.values()])
# By an operation's place: its kind, and whether its value is what its kind works with. The others make numbers of it.
_KIND_OF = np.array([_KINDS[operation.kind] for operation in OPERATIONS.values()], np.float32)
_TAKES_VALUE = np.array([operation.numbers is None for operation in OPERATIONS.values()])
_WITH_NUMBERS = {number: one for number, one in enumerate(OPERATIONS.values()) if one.numbers is not None}


def levels_of(augment: AugmentPlan | None, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The operations in a row on each image: float32 [B, L, 13], and their tables, uint8 [B, L, 256]."""
    levels, tables = np.empty((num_rows, 0, sampling.LEVEL_SIZE), np.float32), np.empty((num_rows, 0, 256), np.uint8)
    if augment is not None and augment.auto_ops is not None:
        assert augment.auto_values is not None
        levels, tables = _auto_levels(augment.auto_ops, augment.auto_values)
    if augment is not None and augment.jitter is not None:
        jitter = np.full((num_rows, 1, sampling.LEVEL_SIZE), chain.MATRIX, np.float32)
        jitter[:, 0, 1:] = _jitter_matrices(augment.jitter)
        levels = np.concatenate([levels, jitter], axis=1)
        tables = np.concatenate([tables, np.zeros((num_rows, 1, 256), np.uint8)], axis=1)
    return levels, tables


def _auto_levels(ops: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``levels_of`` for operations out of a suite and their values, [B, L] each."""
    levels, tables = np.zeros((ops.size, sampling.LEVEL_SIZE), np.float32), np.zeros((ops.size, 256), np.uint8)
    ops, shape = ops.reshape(-1), ops.shape
    levels[:, 0] = _KIND_OF[ops]
    levels[:, 1] = np.where(_TAKES_VALUE[ops], values.reshape(-1), 0)
    by_operation = np.argsort(ops, kind="stable")
    ends = np.cumsum(np.bincount(ops, minlength=len(OPERATIONS))).tolist()
    exact = values.reshape(-1).astype(np.float64)
    for number, operation in _WITH_NUMBERS.items():
        places = by_operation[ends[number - 1] : ends[number]]
        assert operation.numbers is not None
        found = operation.numbers(exact[places])
        if operation.kind == "affine":
            levels[places, 1:7] = found
        else:
            assert operation.kind == "table", operation
            tables[places] = found
    return levels.reshape(*shape, sampling.LEVEL_SIZE), tables.reshape(*shape, 256)


def _jitter_matrices(factors: np.ndarray) -> np.ndarray:
    """Saturation, then contrast around mid-grey, then brightness, as one matrix each: float64 [B, 12]."""
    brightness, contrast, saturation = factors.astype(np.float64).T[:, :, None, None]
    colors = saturation * np.eye(3) + (1 - saturation) * _GREY
    added = np.broadcast_to(brightness * (1 - contrast) * 128, (len(factors), 3, 1))
    return np.concatenate([brightness * contrast * colors, added], axis=2).reshape(len(factors), 12)


def looks_at_all(augment: AugmentPlan | None, num_rows: int) -> np.ndarray:
    """Which images have an operation that looks at the whole of them: bool [B]."""
    if augment is None or augment.auto_ops is None:
        return np.zeros(num_rows, dtype=bool)
    return _LOOKS_AT_ALL[augment.auto_ops].any(axis=1)


Mixing = tuple[np.ndarray, np.ndarray, np.ndarray]  # as ``mixing_of`` gives it


def mixing_of(plan: StepPlan) -> Mixing:
    """Place of each row's partner int64 [B], its own weight float32 [B] under mixup, else 1, and cutmix's box [B, 4].

    A row whose partner is not here is looked at alone, as when a decoder's error is traced: it stays unmixed.
    """
    planned, places = plan.augment, np.arange(plan.num_rows)
    if planned is None or planned.mix_weights is None or planned.cut_boxes is None:
        return places, np.ones(plan.num_rows, np.float32), np.zeros((plan.num_rows, 4), np.int32)
    partner = partners(plan.first_row, plan.num_rows)
    is_cut = planned.cut_boxes[:, 2] > planned.cut_boxes[:, 0]
    weights = np.where(is_cut | (partner == places), 1, planned.mix_weights).astype(np.float32)
    return partner, weights, np.where((partner == places)[:, None], 0, planned.cut_boxes)


@dataclass(frozen=True)
class Choice:
    """How patches are chosen in the graph.

    Attributes:
        grid_size: patches along one side of the image; 1 where it stays in one piece.
        kernel: name of the rule's kernel; None where the ids are given.
        ids: int32 [B, K], or None where the kernel chooses, or where all patches are wanted.
    """

    grid_size: int
    kernel: str | None = None
    temperature: float = 0.0
    ids: np.ndarray | None = None


def kernel_rows(
    plan: StepPlan, data: DataConfig, crops: tuple[np.ndarray, np.ndarray] | None, choice: Choice, mixing: Mixing
) -> np.ndarray:
    """What ``kernels.patches`` reads: float32 [B, R].

    Args:
        crops: regions float32 [B, 4], (top, left, bottom, right) of the crops in pixels of their windows, and the
            windows int32 [B, 4] in the given images: as much as the resize's filter may look at. None: the images are
            square and mirrored already.
        mixing: of ``mixing_of``.
    """
    num_rows, (levels, tables) = plan.num_rows, levels_of(plan.augment, plan.num_rows)
    partner, weights, boxes = mixing
    flat = levels.reshape(num_rows, -1), tables.reshape(num_rows, -1).view(np.float32)
    noise = plan.noise if choice.kernel is not None else plan.noise[:, :0]
    ids = np.empty((num_rows, 0)) if choice.ids is None else choice.ids
    parts = (flat[0], flat[0][partner], flat[1], flat[1][partner], noise, ids)
    rows = np.zeros((num_rows, sampling.LEVELS + sum(part.shape[1] for part in parts)), np.float32)
    at = sampling.LEVELS
    for part in parts:
        rows[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    if crops is None:
        rows[:, sampling.SQUARE] = 1
    else:
        regions, windows = crops
        own = np.concatenate([regions, plan.flips[:, None]], axis=1)
        rows[:, sampling.OWN_REGION : sampling.OWN_REGION + 5] = own
        rows[:, sampling.PARTNER_REGION : sampling.PARTNER_REGION + 5] = own[partner]
        rows[:, sampling.OWN_WINDOW : sampling.OWN_WINDOW + 4] = windows
        rows[:, sampling.PARTNER_WINDOW : sampling.PARTNER_WINDOW + 4] = windows[partner]
    rows[:, sampling.WEIGHT] = weights
    rows[:, sampling.BOX : sampling.BOX + 4] = boxes
    rows[:, sampling.GRID_SIZE], rows[:, sampling.TEMPERATURE] = choice.grid_size, choice.temperature
    rows[:, sampling.SCORED] = 0 if choice.kernel is None else SCORES[choice.kernel]
    rows[:, sampling.COLOR : sampling.COLOR + 3] = mean_color(data)
    rows[:, sampling.NUM_LEVELS], rows[:, sampling.NUM_NOISE] = levels.shape[1], noise.shape[1]
    _plan_erasing(rows, plan.augment, data)
    return rows


def _plan_erasing(rows: np.ndarray, augment: AugmentPlan | None, data: DataConfig) -> None:
    if augment is None or augment.erase_boxes is None:
        return
    rows[:, sampling.ERASE_BOX : sampling.ERASE_BOX + 4] = augment.erase_boxes
    if augment.erase_keys is not None:
        # Little-endian words, so their pieces of 16 bits come with the lowest first.
        pieces = np.ascontiguousarray(augment.erase_keys, dtype="<u8").view("<u2").reshape(-1, 4)
        rows[:, sampling.ERASE_KEY : sampling.ERASE_KEY + 4] = pieces
        rows[:, sampling.NOISE_TABLES : sampling.NOISE_TABLES + 4] = _address_of_tables(data.mean, data.std)


@cache
def _address_of_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """In pieces of 16 bits: uint16 [4]."""
    return np.array([_kept_tables(mean, std).ctypes.data], dtype="<u8").view("<u2")


@cache
def _kept_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """``noise_tables`` in one piece that stays where it is for as long as the process lives: the kernels go there."""
    return np.ascontiguousarray(noise_tables(mean, std))


def mean_color(data: DataConfig) -> np.ndarray:
    """``data.mean`` as a pixel: uint8 [3]."""
    return _color_of(data.mean)


@cache
def _color_of(mean: tuple[float, ...]) -> np.ndarray:
    return np.rint(255 * np.array(mean)).astype(np.uint8)
