"""The work of ``tools.sweep``: passes over validation sets, on any number of ranks, each done once.

Where every patch is kept all rules are the same, so there one pass serves all of them.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from engine.bad_data import one_data_error
from engine.checkpoints.checkpoint import weights_digest
from engine.evaluation.evaluate import Accuracy, evaluate
from engine.evaluation.inference import load_classifier_run
from engine.evaluation.trained import Trained
from engine.metrics import read_metrics
from engine.models.build import training_flops_per_image
from engine.prepare import set_up_torch
from engine.ranks.world import World, on_first_rank, one_clear_error
from engine.run.inputs import check_labels
from engine.run.out_of_memory import clear_out_of_memory
from engine.snapshots import take_snapshot
from pipeline.config import DataConfig
from pipeline.files import write_atomically
from pipeline.graph.route import route_of
from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import SelectionConfig, rule_from_text, rule_name
from pipeline.selection.magnitude import check_estimate
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.data_sets import ValSet, open_val
from tools.command import bar_interval_s
from tools.sweep.sizes import sizes_of


@dataclass(frozen=True)
class Subject:
    """A run to be swept.

    Attributes:
        name: the run folder's, or its whole path where two runs are called alike.
        sizes: its data at each of the sizes that it is swept at.
        digest: of the exported weights.
        maps: fingerprints of the score maps that its rules look at, by the validation sets' and the maps' names.
    """

    name: str
    trained: Trained
    val_sets: tuple[ValSet, ...]
    rules: tuple[SelectionConfig, ...]
    sizes: tuple[DataConfig, ...]
    digest: str
    maps: dict[tuple[str | None, str], str]


@dataclass(frozen=True)
class Job:
    """One pass over a validation set.

    Attributes:
        data: the run's, at the sizes of this pass.
    """

    subject: Subject
    held: ValSet
    selection: SelectionConfig
    keep_rate: float
    data: DataConfig

    @property
    def key(self) -> dict[str, Any]:
        """All that decides the accuracy; a line that says the same need not be computed again."""
        config, name = self.subject.trained.config, self.selection.map
        return {
            "run": self.subject.name,
            "rule": rule_name(self.selection),
            "keep_rate": self.keep_rate,
            "weights_digest": self.subject.digest,
            "validation_set": self.held.index.fingerprint,
            "image_size": self.data.image_size,
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "val_crop_fraction": config.data.val_crop_fraction,
            "device": config.data.device,
            "on_bad_sample": config.data.on_bad_sample,
            "seed": config.seed,
            "patch_size": self.data.patch_size,
            **({} if name is None else {"map": self.subject.maps[self.held.name, name]}),
            **({} if self.held.name is None else {"val": self.held.name}),
        }

    @property
    def keeps_all(self) -> bool:
        """Whether every patch is kept, so that no rule has anything to choose."""
        return num_kept_at(self.keep_rate, self.data.num_patches) == self.data.num_patches

    def sees_what(self, other: "Job") -> bool:
        """Whether both show the model the very same: every patch of the same images, resampled in the same way."""
        return (
            self.subject is other.subject
            and self.held is other.held
            and self.data == other.data
            and self.keeps_all
            and other.keeps_all
            and route_of(self.data, self.selection) == route_of(self.data, other.selection)
        )

    def told_as(self, other: "Job", line: dict[str, Any]) -> dict[str, Any]:
        """The line of another job that sees what this one does, as this one's; ``same_as`` is the rule measured."""
        measured = {name: value for name, value in line.items() if name not in other.key}
        return {**self.key, **measured, "same_as": line.get("same_as", line["rule"])}

    def is_told_by(self, line: dict[str, Any]) -> bool:
        # Lines of earlier versions say no patch size: it was the run's.
        line = {"patch_size": self.subject.trained.config.data.patch_size, **line}
        return all(line.get(name) == value for name, value in self.key.items())


class ResultFile:
    """``sweep.jsonl``: read once, then added to, a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines = read_metrics(path)
        # A line that a kill has cut short would swallow the next one.
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.lines), sync=True)

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def bytes_per_image(data: DataConfig, num_kept: int) -> int:
    """What the model is given of one image: kept patches, their ids (int32) and a label (int64).

    That much crosses to its device, unless the patches are made there (``data.device: gpu``).
    """
    return num_kept * (3 * data.patch_size**2 + 4) + 8


def open_subject(name: str, folder: Path, options: argparse.Namespace, world: World) -> Subject:
    """Read a run and check all that it is asked for.

    Raises:
        ValueError, OSError: a run, a rule or a keep rate that cannot be used.
    """
    trained = load_classifier_run(folder, options.set)
    data = trained.config.data
    if data.device == "gpu" and world.device.type != "cuda":
        raise ValueError(f"{folder}: data.device is gpu, but no GPU is visible here; give --set data.device=cpu")
    val_sets = open_val(data)
    for held in val_sets:
        check_labels(held.index, data.num_classes)
    sizes = sizes_of(data, options)
    rules = tuple(map(rule_from_text, options.rules)) or (trained.config.selection,)
    for rule in rules:
        for at in sizes if rule.estimate != "none" else ():
            snapshot = take_snapshot(trained.model, 0, image_size=at.image_size, patch_size=at.patch_size)
            check_estimate(rule, snapshot.kernel)
    names = {rule.map for rule in rules if rule.map is not None}
    maps = {(held.name, one): ScoreMaps(held.index, one).fingerprint() for held in val_sets for one in names}
    return Subject(name, trained, val_sets, rules, sizes, weights_digest(trained.model.state_dict()), maps)


def run_job(job: Job, world: World, bar: Any) -> dict[str, Any]:
    """The line of one pass. Collective.

    Raises:
        DataError: an image or a shard that cannot be used.
    """
    trained = job.subject.trained
    config = trained.config.model_copy(update={"selection": job.selection})
    model = trained.model.to(world.device)

    def advance() -> bool:
        bar.update()
        return False

    dist.barrier()
    start = time.perf_counter()
    set_up_torch(config, world)
    with clear_out_of_memory(world, config):
        accuracy, _ = evaluate(
            model,
            job.held.index,
            config,
            job.keep_rate,
            world,
            advance,
            image_size=job.data.image_size,
            patch_size=job.data.patch_size,
        )
    wall_s = time.perf_counter() - start
    assert isinstance(accuracy, Accuracy)
    return {
        **job.key,
        **accuracy.as_line(),
        "wall_s": wall_s,
        "images_per_s": accuracy.num_samples / wall_s,
        "forward_flops_per_image": training_flops_per_image(trained.model, accuracy.num_kept, job.data.patch_size) // 3,
        "bytes_per_image": bytes_per_image(job.data, accuracy.num_kept),
        "ranks": world.size,
    }


def sweep(options: argparse.Namespace, world: World) -> list[dict[str, Any]]:
    """The lines of everything that was asked for, in order; computes those that are not there yet. Collective.

    Raises:
        SystemExit: with code 2 for an input that cannot be used, with code 3 for bad data; on every rank.
    """
    with one_clear_error(world):
        subjects = [open_subject(name, folder, options, world) for name, folder in _names(options.runs)]
    jobs = [
        Job(subject, held, rule, rate, data)
        for subject in subjects
        for held, rule, data, rate in itertools.product(
            subject.val_sets, subject.rules, subject.sizes, options.keep_rates
        )
    ]
    results: ResultFile | None = None

    def find_lines() -> list[dict[str, Any] | None]:
        nonlocal results
        results = ResultFile(options.out / "sweep.jsonl")
        return [next(({**line, **job.key} for line in results.lines if job.is_told_by(line)), None) for job in jobs]

    with one_clear_error(world):
        lines = on_first_rank(world, find_lines)
    with one_data_error(world):
        for i, job in enumerate(jobs):
            if lines[i] is not None:
                continue
            twin = next((k for k, one in enumerate(lines) if one is not None and job.sees_what(jobs[k])), None)
            if twin is None:
                with _bar(job, f"{i + 1}/{len(jobs)}", world) as bar:
                    line = run_job(job, world, bar)
            else:
                line = job.told_as(jobs[twin], lines[twin] or {})
            lines[i] = line
            if results is not None:
                results.add(line)
    return [line for line in lines if line is not None]


def _bar(job: Job, place: str, world: World) -> Any:
    num_batches = -(-job.held.index.num_samples // (job.subject.trained.config.eval.micro_batch_size * world.size))
    pixels = f"{job.data.image_size}/{job.data.patch_size} pixels, " if len(job.subject.sizes) > 1 else ""
    held = "" if job.held.name is None else f"{job.held.name}, "
    text = f"{place} {job.subject.name}, {held}{rule_name(job.selection)}, {pixels}keep {job.keep_rate:g}"
    return tqdm(
        total=num_batches,
        desc=text,
        unit="batch",
        dynamic_ncols=True,
        mininterval=bar_interval_s(),
        disable=not world.is_first,
    )


def _names(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """A name for each run, no two alike."""
    names = [folder.resolve().name for folder in folders]
    for name, folder in zip(names, folders, strict=True):
        yield (name if names.count(name) == 1 else str(folder.resolve())), folder
