"""The planned part of augmentation beyond crop and flip, as arrays: every choice, strength, partner and box."""

from dataclasses import dataclass, fields, replace

import numpy as np

from pipeline.config import AugmentConfig, AutoAugmentConfig
from pipeline.operations import IDENTITY, MAX_MAGNITUDE, OPERATION_NAMES, OPERATIONS, SUITES, Level, levels_of
from pipeline.plan.erasing import NUM_ERASE_DRAWS, plan_boxes
from pipeline.plan.keyed import KeyedRows, Stream
from pipeline.plan.mixing import NUM_MIX_DRAWS, partners, plan_pairs


@dataclass(frozen=True)
class AugmentPlan:
    """A rank's rows of one step. What is off is None.

    Shapes: B rows; L operations in a row.

    Attributes:
        auto_ops: int32 [B, L], places in ``operations.OPERATIONS``; that of ``identity`` where none is applied.
        auto_magnitudes: float32 [B, L], 0 to 10, negative where an operation goes the other way.
        auto_values: float32 [B, L], what the suite makes of the magnitudes: degrees, factors, thresholds, ...
        jitter: float32 [B, 3], factors of brightness, contrast and saturation.
        mix_labels: int64 [B], the partner's label.
        mix_weights: float32 [B], share of the row's own label; 1 where it is not mixed.
        cut_boxes: int32 [B, 4], (top, left, bottom, right) of what comes from the partner; all 0 where it is not
            cutmix that mixes the row.
        erase_boxes: int32 [B, 4], all 0 where nothing is erased.
        erase_keys: uint64 [B], of the noise in the boxes; None under ``erase_mode: mean``.
    """

    auto_ops: np.ndarray | None = None
    auto_magnitudes: np.ndarray | None = None
    auto_values: np.ndarray | None = None
    jitter: np.ndarray | None = None
    mix_labels: np.ndarray | None = None
    mix_weights: np.ndarray | None = None
    cut_boxes: np.ndarray | None = None
    erase_boxes: np.ndarray | None = None
    erase_keys: np.ndarray | None = None

    def rows(self, start: int, stop: int) -> "AugmentPlan":
        """The same plan for some of its rows."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return AugmentPlan(**{name: None if array is None else array[start:stop] for name, array in arrays.items()})

    def with_labels(self, labels: np.ndarray, first_row: int) -> "AugmentPlan":
        """The same plan for rows whose labels have changed: partners see the new ones.

        A row whose partner is not here keeps its partner's label.
        """
        if self.mix_labels is None:
            return self
        partner = partners(first_row, len(labels))
        is_here = partner != np.arange(len(labels))
        return replace(self, mix_labels=np.where(is_here, labels[partner], self.mix_labels))


def plan_augment(
    augment: AugmentConfig, image_size: int, labels: np.ndarray, rows: KeyedRows, *, mixes: bool
) -> AugmentPlan | None:
    """What is done to rows of a training step beyond crop and flip; None where nothing is.

    Args:
        augment: with the step's own numbers in place of schedules.
        mixes: whether images are mixed at some step of the run. At a step that mixes none all weights are 1 then.

    Raises:
        ValueError: images are mixed in pairs and the rows are not pairs.
    """
    parts: dict[str, np.ndarray] = {}
    if augment.auto is not None:
        drawn = rows.uniform(Stream.AUTO_AUGMENT, num_auto_draws(augment.auto))
        parts["auto_ops"], parts["auto_magnitudes"], parts["auto_values"] = plan_auto(drawn, augment.auto)
    if augment.color_jitter > 0:
        parts["jitter"] = 1 + np.float32(augment.color_jitter) * (2 * rows.uniform(Stream.COLOR_JITTER, 3) - 1)
    if mixes:
        check_pairs(rows.count, "rows a rank")
        weights, boxes = plan_pairs(rows.pairs.uniform(Stream.MIX, NUM_MIX_DRAWS), augment, image_size)
        parts["mix_weights"], parts["cut_boxes"] = np.repeat(weights, 2), np.repeat(boxes, 2, axis=0)
        parts["mix_labels"] = labels[partners(rows.first, rows.count)]
    if augment.erase_probability > 0:
        drawn = rows.uniform(Stream.ERASE, NUM_ERASE_DRAWS)
        parts["erase_boxes"] = plan_boxes(drawn, augment.erase_probability, image_size)
        if augment.erase_mode == "pixel":
            parts["erase_keys"] = rows.words(Stream.ERASE_NOISE)
    return AugmentPlan(**parts) if parts else None


def order_positions(step_of_epoch: int, global_batch_size: int, repeats: int, rows: np.ndarray) -> np.ndarray:
    """Places in the epoch's order of the samples in rows (int64 [B]) of one global batch: int64 [B].

    Under ``repeats`` (arXiv 1901.09335, 1902.05509) every sample of the order stands that many times in a row, and
    steps take the next places as ever, so an epoch sees as many times fewer samples. A batch that the repeats do not
    divide shares a sample with the one before or after, and an epoch's last sample may come fewer times. In a batch
    first copies come first, then second ones: no two copies are neighbours, which are mixed with one another.
    """
    start = step_of_epoch * global_batch_size
    if repeats == 1:
        return start + rows
    # Copy number c of the samples: how many of them the batch holds, and how many rows stand before them.
    copies = np.arange(repeats)
    first_places = start + (copies - start) % repeats
    counts = np.maximum(-(-(start + global_batch_size - first_places) // repeats), 0)
    ends = np.cumsum(counts)
    copy = np.searchsorted(ends, rows, side="right")
    return (first_places[copy] + repeats * (rows - (ends - counts)[copy])) // repeats


def check_repeats(repeats: int, global_batch_size: int) -> None:
    """Raise ValueError where a batch has no room for two samples and all their repeats."""
    if repeats > 1 and global_batch_size < 2 * repeats:
        raise ValueError(
            f"data.augment.repeats {repeats} needs a global_batch_size of at least {2 * repeats}, so that a batch "
            f"holds two samples, got {global_batch_size}"
        )


def check_pairs(num_rows: int, of_what: str) -> None:
    """Raise ValueError where images are mixed in pairs and this many rows are no whole pairs."""
    if num_rows % 2:
        raise ValueError(
            f"mixup and cutmix mix pairs of neighbours, but there are {num_rows} {of_what}; choose "
            "train.global_batch_size and train.micro_batch_size so that the number is even"
        )


def num_auto_ops(auto: AutoAugmentConfig) -> int:
    """Operations in a row on each image."""
    return auto.num_ops if SUITES[auto.kind].is_set else 1


def num_auto_draws(auto: AutoAugmentConfig) -> int:
    """Random numbers per image."""
    return 5 * auto.num_ops if SUITES[auto.kind].is_set else 3


def plan_auto(draws: np.ndarray, auto: AutoAugmentConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Operations int32, magnitudes float32 and values float32, [B, L] each.

    RandAugment's magnitude is normal around ``magnitude``, clipped to 0 to 10, as in timm.

    Args:
        draws: float32 [B, 5 L] in [0, 1) where the suite is set: operation, sign, whether it is applied and two of the
            magnitude, each for all L; else [B, 3]: operation, sign, magnitude.
    """
    levels, suite = levels_of(auto.kind, increasing=auto.increasing), SUITES[auto.kind]
    operation, sign, *others = np.split(draws, 5 if suite.is_set else 3, axis=1)
    drawn = (operation * len(levels)).astype(np.int32)
    if suite.is_set:
        applied = others[0] < auto.probability
        # Box and Muller's transform of two uniform numbers into a normal one.
        radius = np.sqrt(-2 * np.log(1 - others[1].astype(np.float64)))
        normal = radius * np.cos(2 * np.pi * others[2].astype(np.float64))
        assert isinstance(auto.magnitude, float), "a step has a number in place of a schedule"
        shares = np.clip(auto.magnitude + auto.magnitude_std * normal, 0, MAX_MAGNITUDE) / MAX_MAGNITUDE
    else:
        applied = np.ones(drawn.shape, dtype=bool)
        shares = np.floor(others[0].astype(np.float64) * suite.num_bins) / (suite.num_bins - 1)
    places = np.array([OPERATION_NAMES.index(name) for name in levels], dtype=np.int32)
    either_way = np.array([level.goes_either_way for level in levels.values()])
    shares = np.where((sign >= 0.5) & either_way[drawn], -shares, shares)
    values = _values(list(levels.values()), drawn, shares)
    ops = np.where(applied, places[drawn], np.int32(IDENTITY))
    return ops, (MAX_MAGNITUDE * shares).astype(np.float32), values.astype(np.float32)


def _values(levels: list[Level], drawn: np.ndarray, shares: np.ndarray) -> np.ndarray:
    values = np.empty(shares.shape)
    for number, level in enumerate(levels):
        here = drawn == number
        values[here] = level.value(shares[here])
    return values


def magnitude_of(op: str, magnitude: float) -> float | None:
    """The magnitude of an operation, -10 to 10; None for one that knows none."""
    return float(magnitude) if OPERATIONS[op].has_magnitude else None
