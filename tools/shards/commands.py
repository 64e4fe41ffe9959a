"""The commands of ``tools.shards``: each takes its options, prints what it found and returns the exit code.

Raises ValueError or OSError where a command cannot be carried out.
"""

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from pipeline.shards.exclusion import Exclusion, exclusion_path, known_samples
from pipeline.shards.index import BadShardsError, ShardIndex, build_index, group_tars, open_index
from pipeline.shards.links import link_tars
from pipeline.shards.tars import Fault, Members, Scan
from tools.command import bar_interval_s
from tools.shards.dali_index import write_dali_index
from tools.shards.exclude import exclude_faulty, read_bad_samples, sample_of
from tools.shards.images import Encoding
from tools.shards.levels.parse import parse_levels
from tools.shards.sources.source import SourceOptions
from tools.shards.sources.split_map import SplitMap
from tools.shards.sources.table import check_outside, open_source
from tools.shards.stats import collect_stats, describe_stats, gaps_between
from tools.shards.tally import describe_tally
from tools.shards.units_check import remove_stale_units
from tools.shards.verify import Report, read_indexes, verify_folder


def run_convert(options: argparse.Namespace) -> int:
    """Writes shards from a source. Returns 1 where more images were rejected than was allowed."""
    # Imported here: webdataset brings torch with it, which the other commands and the workers do without.
    from tools.shards.convert import Settings, convert

    _check_workers(options)
    levels = [] if options.levels is None else parse_levels(options.levels)
    encoding = Encoding(options.format, options.quality, options.resize_shorter, options.addressable)
    settings = Settings(options.val_fraction, options.shard_samples, options.shard_bytes, options.seed, encoding)
    check_outside(options.source, options.out)
    print(f"reading the list of {options.source}", file=sys.stderr)
    split_map = SplitMap() if options.split_map is None else SplitMap.parse(options.split_map)
    source_options = SourceOptions(split_map, options.image_column, options.label_column, options.join_classes)
    source = open_source(options.source, options.root, source_options)
    with _progress() as progress, _going_on(options.out):
        conversion = convert(
            source,
            options.source,
            options.out,
            settings,
            workers=options.workers,
            on_total=progress.on_total,
            on_images=progress.on_images,
            on_phase=progress.on_phase,
        )
    _print_conversion(conversion.dataset, conversion.was_finished, options)
    _resize(options.out, levels, options)
    rejected = conversion.dataset["rejected"]
    if rejected > options.max_rejected:
        print(
            f"error: {rejected} image(s) were rejected and --max-rejected is {options.max_rejected}. The shards hold "
            f"all others and are complete; to accept that, run again with --max-rejected {rejected} "
            "(nothing is converted twice), or mend the images and convert into a new folder",
            file=sys.stderr,
        )
        return 1
    return 0


def run_readdress(options: argparse.Namespace) -> int:
    """Writes shards anew with addressable JPEGs."""
    from tools.shards.readdress import readdress

    _check_workers(options)
    with _progress() as progress, _going_on(options.out):
        dataset, was_finished = readdress(
            options.folder,
            options.out,
            workers=options.workers,
            on_total=progress.on_total,
            on_images=progress.on_images,
            on_phase=progress.on_phase,
        )
    _print_conversion(dataset, was_finished, options)
    return 0


def run_resize_levels(options: argparse.Namespace) -> int:
    """Writes smaller images of the training samples beside their shards."""
    _check_workers(options)
    made = _resize(options.folder, parse_levels(options.levels), options)
    if options.json:
        print(
            json.dumps({"levels": {str(pixels): _level_as_json(dataset) for pixels, dataset in made.items()}}, indent=2)
        )
    return 0


def _resize(folder: Path, levels: Sequence[int], options: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """Write levels and, for people, say what they hold."""
    if not levels:
        return {}
    from tools.shards.levels.resize import resize_levels

    with _progress() as progress:
        made = resize_levels(
            folder,
            levels,
            addressable=options.addressable,
            workers=options.workers,
            on_total=progress.on_total,
            on_images=progress.on_images,
            on_phase=progress.on_phase,
        )
    for pixels, dataset in made.items() if not options.json else ():
        facts = _level_as_json(dataset)
        print(
            f"level {pixels}: {facts['num_shrunk']:,} images shrunk, {facts['num_copied']:,} small enough, "
            f"{facts['num_bytes'] / 1e6:,.1f} MB"
        )
        for reason, count in facts["unread"].items():
            print(f"  stored as they are: {count:,}: {reason}")
    return made


def _level_as_json(dataset: dict[str, Any]) -> dict[str, Any]:
    [split] = dataset["splits"].values()
    return {"num_samples": split["num_samples"], "num_bytes": split["num_bytes"], **split["level"]}


def run_units(options: argparse.Namespace) -> int:
    """Writes where the units of addressable JPEGs lie, for the indexes that are there."""
    from tools.shards.units_files import write_units_files

    _check_workers(options)
    indexes = [open_index(options.folder, index.split) for index in read_indexes(options.folder)]
    with _progress() as progress:
        progress.on_total(sum(len(index.shard) for index in indexes), 0)
        found = write_units_files(indexes, workers=options.workers, on_images=progress.on_images)
    facts = {index.split: {"num_samples": len(index.shard), "num_addressable": found[index.split]} for index in indexes}
    if options.json:
        print(json.dumps({"splits": facts}, indent=2))
        return 0
    for split, fact in facts.items():
        print(f"{split}: {fact['num_addressable']:,} of {fact['num_samples']:,} images are addressable")
    return 0


def _check_workers(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise ValueError(f"workers {options.workers}; allowed is 1 or more")


class _Progress:
    """A bar on stderr, made only when the total is known, so that its rate does not count what was done before.

    Another total begins another bar.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def on_total(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self._stack.close()
        self._bar: tqdm[NoReturn] = tqdm(total=total, initial=done, unit="img", mininterval=bar_interval_s())
        self._stack.callback(self._bar.close)

    def on_images(self, count: int) -> None:
        self._bar.update(count)

    def on_phase(self, phase: str) -> None:
        self._bar.set_description(phase)


@contextmanager
def _progress() -> Iterator[_Progress]:
    with ExitStack() as stack:
        yield _Progress(stack)


@contextmanager
def _going_on(out: Path) -> Iterator[None]:
    """Says, where the disk or a file refuses, that nothing is lost."""
    from tools.shards.journal import JOURNAL_NAME

    try:
        yield
    except OSError as error:
        if not (out / JOURNAL_NAME).exists():
            raise
        raise OSError(f"{error}; the finished shards are kept, and the same command goes on from there") from error


def _print_conversion(dataset: dict[str, Any], was_finished: bool, options: argparse.Namespace) -> None:
    """What the shards hold, for people or for programs."""
    from tools.shards.dataset import REJECTED_NAME

    # Older conversions did not count what was passed over or encoded anew.
    rejected, passed_over = dataset["rejected"], dataset.get("passed_over", {})
    reencoded = dataset.get("reencoded", {})
    if options.json:
        keys = ("num_samples", "num_shards", "num_bytes", "class_counts", "addressable")
        splits = {name: {key: split[key] for key in keys if key in split} for name, split in dataset["splits"].items()}
        told = {"was_finished": was_finished, "rejected": rejected, "reencoded": reencoded, "passed_over": passed_over}
        print(json.dumps({**told, "splits": splits}, indent=2))
        return
    if was_finished:
        print(f"{options.out} holds this very conversion already; nothing to do. To do it anew, remove the folder.")
    for name, split in dataset["splits"].items():
        classes = "labels" if split["class_counts"] is None else f"{len(split['class_counts'])} classes"
        print(
            f"{name}: {split['num_samples']:,} images of {classes} "
            f"in {split['num_shards']} shards, {split['num_bytes'] / 1e6:,.1f} MB"
        )
        if "addressable" in split:
            for title, line in describe_tally(split["addressable"]):
                print(f"  {title:<18} {line}")
    for line in gaps_between(dataset["splits"], dataset["classes"]):
        print(line)
    for reason, count in reencoded.items():
        print(f"encoded anew: {count:,}: {reason}")
    if passed_over:
        print(f"passed over: {', '.join(f'{count} {what}' for what, count in passed_over.items())}")
    if rejected:
        print(f"rejected: {rejected}, each named in {options.out / REJECTED_NAME}")


def run_index(options: argparse.Namespace) -> int:
    """Indexes tars that are there already. Returns 1 where ``--check`` finds a fault that is not excluded."""
    _check_workers(options)
    folder: Path = options.folder
    groups = _tars_to_index(folder, options.split, options.pattern)
    if not any(groups.values()):
        raise FileNotFoundError(f"{folder}: no tar {'here' if options.pattern is None else options.pattern}")
    if options.out is not None:
        folder = options.out
        groups = {split: link_tars(tars, folder) for split, tars in groups.items()}
    elif not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: cannot be written; --out DIR puts the index and its like into DIR")
    from tqdm import tqdm

    with tqdm(unit="img", desc="samples", mininterval=bar_interval_s()) as bar:

        def on_shard(path: Path, scan: Scan) -> None:
            write_dali_index(path, scan)
            bar.update(len(scan.rows))

        indexes: list[ShardIndex] = []
        for split, tars in groups.items():
            try:
                index = build_index(
                    folder,
                    split,
                    tars,
                    **members_to_index(options)._asdict(),
                    on_shard=on_shard,
                    leave_out_faulty=options.exclude,
                )
                indexes.append(index)
            except BadShardsError as error:
                bar.close()
                for fault in error.faults:
                    print(fault, file=sys.stderr if options.json else sys.stdout)
                raise
    if stale := [path for index in indexes for path in remove_stale_units(index)]:
        print(
            f"removed {stale[0].name}{f' and {len(stale) - 1} more' if stale[1:] else ''}, made for other shards than "
            f"these; to make them again: python -m tools.shards units {folder}",
            file=sys.stderr,
        )
    report, lines = (None, []) if not options.check else _verified(folder, options, splits=set(groups))
    code = 1 if report is not None and report.faults else 0
    if options.out is not None:
        print(f"for data.train and data.val, and for all tools, the shards are now in {folder}", file=sys.stderr)
    if options.json:
        told: dict[str, Any] = {"splits": {index.split: _index_as_json(index) for index in indexes}}
        print(json.dumps(told if report is None else told | {"check": report.as_json()}, indent=2))
        return code
    for index in indexes:
        print(
            f"{index.split}: {index.num_samples:,} samples in {len(index.shards)} shards, labels {index.min_label} to "
            f"{index.max_label}"
        )
        for shard in index.shards:
            if not shard.num_samples:
                print(f"passed over: {shard.name}: holds no samples")
        for sample in known_samples(exclusion_path(index.folder, index.split), index.fingerprint):
            print(f"left out: {Fault(sample.shard, sample.key, sample.reason)}")
    for line in lines:
        print(line)
    return code


def _tars_to_index(folder: Path, split: str | None, pattern: str | None) -> dict[str, list[Path]]:
    """Split -> its tars: by their names, or those that a pattern selects in the folder itself."""
    if split is None and pattern is None:
        return group_tars(folder)
    if split is None or pattern is None:
        raise ValueError("--split and --pattern go together: --split train --pattern 'imagenet1k-train-*.tar'")
    place, name = Path(pattern).expanduser().parent, Path(pattern).name
    if (folder / place).resolve() != folder.resolve():
        raise ValueError(
            f"--pattern {pattern} selects tars in {place}, but the tars of an index lie directly in its folder; "
            f"index that folder: python -m tools.shards index {folder / place} --split {split} --pattern '{name}'"
        )
    return {split: sorted(folder.glob(name))}


def members_to_index(options: argparse.Namespace) -> Members:
    """Where images and labels are, as the options say it. Raises ValueError where two of them exclude one another."""
    image, label = (name and name.lower().removeprefix(".") for name in (options.image_member, options.label_member))
    if options.label_field and label and label.rpartition(".")[2] != "json":
        raise ValueError(f"--label-field is a field of a json member, but --label-member is {label}; leave one out")
    return Members(options.label_field, image, label)


def _index_as_json(index: ShardIndex) -> dict[str, Any]:
    excluded = known_samples(exclusion_path(index.folder, index.split), index.fingerprint)
    return {
        "num_samples": index.num_samples,
        "num_shards": len(index.shards),
        "min_label": index.min_label,
        "max_label": index.max_label,
        "fingerprint": index.fingerprint,
        "empty_shards": [shard.name for shard in index.shards if not shard.num_samples],
        "excluded": [asdict(sample) for sample in excluded],
    }


def run_verify(options: argparse.Namespace) -> int:
    """Names each fault of a folder of shards. Returns 1 where there is one that is not excluded."""
    _check_workers(options)
    bad_samples = [fault for path in options.bad_samples for fault in read_bad_samples(path)]
    if bad_samples and not options.exclude:
        raise ValueError("--bad-samples names samples to leave out; give --exclude with it")
    report, lines = _verified(options.folder, options, bad_samples)
    print(json.dumps(report.as_json(), indent=2) if options.json else "\n".join(lines))
    return 1 if report.faults else 0


def _verified(
    folder: Path,
    options: argparse.Namespace,
    bad_samples: Sequence[Fault] = (),
    splits: Collection[str] | None = None,
) -> tuple[Report, list[str]]:
    """What a verification finds, with what is left out by ``--exclude`` apart, and the same in lines for people."""
    report = verify_folder(folder, workers=options.workers, show_progress=True, splits=splits)
    found, lists = report.faults, dict[Path, Exclusion]()
    if options.exclude:
        indexes = [index for index in read_indexes(folder) if splits is None or index.split in splits]
        lists = exclude_faulty(indexes, [*report.faults, *bad_samples])
        listed = {(sample.shard, sample.key) for exclusion in lists.values() for sample in exclusion.samples}
        remaining = [fault for fault in report.faults if sample_of(fault) not in listed]
        report = replace(report, faults=remaining, num_excluded=len(listed))
    lines = [str(fault) for fault in found]
    for path, exclusion in lists.items():
        lines.append(f"{path} lists {len(exclusion.samples)} sample(s), which the loader leaves out")
    outcome = f"{len(report.faults)} fault(s)" if report.faults else "no fault"
    besides = f" besides {report.num_excluded} excluded sample(s)" if report.num_excluded else ""
    return report, [*lines, f"{report.num_samples:,} samples in {report.num_shards} shards: {outcome}{besides}"]


def run_stats(options: argparse.Namespace) -> int:
    """Prints what a folder of shards holds."""
    stats = collect_stats(options.folder)
    print(json.dumps(stats, indent=2) if options.json else describe_stats(stats))
    return 0
