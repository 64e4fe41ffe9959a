"""One step of a run as its ranks plan it: samples, crops, augmentation, labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.config import RunConfig
from engine.run_plan import build_schedule
from pipeline.operations import IDENTITY, OPERATION_NAMES
from pipeline.plan.augmentation import AugmentPlan, magnitude_of
from pipeline.plan.mixing import partners
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.shards.data_sets import class_names_of, epoch_samples_of, open_train
from pipeline.shards.index import ShardIndex
from pipeline.shards.mixed import MixedIndex


@dataclass(frozen=True)
class Inspection:
    """One rank's part of one step, planned as the run itself plans it."""

    config: RunConfig
    index: ShardIndex
    planner: TrainPlanner
    plan: StepPlan
    rank: int
    world_size: int

    def samples(self) -> list[dict[str, Any]]:
        """A dictionary per row of the batch, of values that JSON knows; augmentation that is off has no keys.

        With levels ``level`` says at which one the image is read, null for the full size. Crops are those at full size.
        """
        plan, index = self.plan, self.index
        extras = planned_augmentation(plan, index)
        levels = [None] * plan.num_rows if plan.levels is None else plan.levels.tolist()
        pixels = [None, *self.config.data.levels]
        return [
            {
                "key": index.key(sample_id),
                **self._place(int(sample_id)),
                "label": int(label),
                "crop": crop.tolist(),
                "flip": bool(flip),
                **extra,
                **({} if level is None else {"level": pixels[level]}),
            }
            for sample_id, label, crop, flip, extra, level in zip(
                plan.sample_ids, plan.labels, plan.crops, plan.flips, extras, levels, strict=True
            )
        ]

    def _place(self, sample_id: int) -> dict[str, str]:
        """The sample's shard, and the source that it is of where there are several."""
        index, shard = self.index, self.index.shards[self.index.shard[sample_id]].name
        if not isinstance(index, MixedIndex):
            return {"shard": shard}
        source = index.sources[int(index.source_numbers(np.array([sample_id]))[0])]
        return {"shard": shard.removeprefix(f"{source.index.folder.absolute()}/"), "source": source.name}

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.plan.step,
            "epoch": self.plan.epoch,
            "rank": self.rank,
            "world_size": self.world_size,
            "keep_rate": self.plan.stage.keep_rate,
            "num_kept": self.plan.stage.num_kept,
            "image_size": self.plan.stage.image_size,
            "patch_size": self.plan.stage.patch_size,
            **{str(name): value for name, value in self.plan.stage.strengths.items()},
            "samples": self.samples(),
        }

    def title(self) -> str:
        stage, selection = self.plan.stage, self.config.selection
        rule = selection.rule + (f" at temperature {selection.temperature:g}" if selection.temperature else "")
        with_sizes = bool(self.config.schedule.sizes)
        sizes = f" of {stage.patch_size} pixels in an image of {stage.image_size}" if with_sizes else ""
        strengths = "".join(f", {name} {value:.4g}" for name, value in stage.strengths.items())
        return (
            f"{self.config.name}, step {self.plan.step} (epoch {self.plan.epoch}, rank {self.rank} of "
            f"{self.world_size}): keep rate {stage.keep_rate:g}, num_kept {stage.num_kept} of "
            f"{self.planner.data_at(stage).num_patches} patches{sizes}{strengths}, rule {rule}"
        )


def inspect_step(config: RunConfig, step: int, rank: int = 0, world_size: int = 1) -> Inspection:
    """Plan a step. Opens the training index and reads no image.

    Raises:
        ValueError, OSError: a step outside the run, no such rank, a batch that the ranks do not divide, or a training
            set that cannot be opened.
    """
    if world_size < 1:
        raise ValueError(f"--world is at least 1, got {world_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"--rank is 0 to {world_size - 1} with --world {world_size}, got {rank}")
    index = open_train(config.data)
    schedule = build_schedule(config, epoch_samples_of(config.data, index))
    if not 0 <= step < schedule.total_steps:
        raise ValueError(f"--step {step} is outside the run, whose steps are 0 to {schedule.total_steps - 1}")
    planner = TrainPlanner(index, config.data, config.selection, schedule, config.train.global_batch_size, config.seed)
    return Inspection(config, index, planner, planner.plan(step, rank, world_size), rank, world_size)


def planned_augmentation(plan: StepPlan, index: ShardIndex) -> list[dict[str, Any]]:
    """For each row, what is planned beyond crop and flip, by name and only what is on.

    ``augment``: operations with magnitudes of 0 to 10, negative where the operation goes the other way, null where it
    knows none. ``jitter``: factors. ``mix``: partner, own weight and cutmix's box; null where the row is not mixed.
    ``erase``: the box, null where there is none. Boxes are [top, left, bottom, right] in pixels of the image.
    ``example_weight``: the factor of the row's loss, in epochs that leave examples out.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(plan.num_rows)]
    planned = plan.augment or AugmentPlan()
    keys = [index.key(sample_id) for sample_id in plan.sample_ids]
    partner = partners(plan.first_row, plan.num_rows)
    for row, shown in enumerate(rows):
        if planned.auto_ops is not None and planned.auto_magnitudes is not None:
            chosen = zip(planned.auto_ops[row], planned.auto_magnitudes[row], strict=True)
            applied = [(OPERATION_NAMES[op], magnitude) for op, magnitude in chosen if op != IDENTITY]
            shown["augment"] = [{"op": op, "magnitude": magnitude_of(op, magnitude)} for op, magnitude in applied]
        if planned.jitter is not None:
            names = ("brightness", "contrast", "saturation")
            shown["jitter"] = dict(zip(names, planned.jitter[row].tolist(), strict=True))
        if planned.mix_weights is not None and planned.cut_boxes is not None:
            weight, box = float(planned.mix_weights[row]), planned.cut_boxes[row]
            mix = {"partner": keys[partner[row]], "weight": weight, "box": box.tolist() if box.any() else None}
            shown["mix"] = mix if weight < 1 else None
        if planned.erase_boxes is not None:
            box = planned.erase_boxes[row]
            shown["erase"] = box.tolist() if box.any() else None
        if plan.weights is not None:
            shown["example_weight"] = float(plan.weights[row])
    return rows


def describe(shown: Inspection) -> str:
    """The planned samples as a table for people."""
    names = class_names(shown)
    rows = [("row", "key", "shard", "label", "crop: top", "left", "bottom", "right", "flip", "num_kept")]
    for row, sample in enumerate(shown.samples(), shown.plan.first_row):
        rows.append(
            (
                str(row),
                sample["key"],
                "/".join([*([sample["source"]] if "source" in sample else []), sample["shard"]]),
                label_text(sample["label"], names),
                *(f"{edge:g}" for edge in sample["crop"]),
                "yes" if sample["flip"] else "no",
                str(shown.plan.stage.num_kept),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_text = (False, True, True, True, False, False, False, False, True, False)
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(cells, widths, is_text, strict=True)
        ).rstrip()
        for cells in rows
    ]
    return "\n".join([shown.title(), "", *lines])


def class_names(shown: Inspection) -> list[str]:
    """The classes that the conversion wrote beside the shards; none where it did not."""
    return class_names_of(shown.config.data)


def label_text(label: int, names: list[str]) -> str:
    return f"{label} {names[label]}" if label < len(names) else str(label)


def row_label(plan: StepPlan, row: int, names: list[str]) -> str:
    """A row's label; where it is mixed, both labels with their weights, one a line."""
    own, planned = label_text(int(plan.labels[row]), names), plan.augment
    if planned is None or planned.mix_labels is None or planned.mix_weights is None or planned.mix_weights[row] == 1:
        return own
    weight = float(planned.mix_weights[row])
    return f"{weight:.2f} {own}\n{1 - weight:.2f} {label_text(int(planned.mix_labels[row]), names)}"
