"""The commands of ``tools.shards``: each takes its options, prints what it found and returns the exit code.

Raises ValueError or OSError where a command cannot be carried out.
"""

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.shards.exclusion import Exclusion, exclusion_path, known_samples
from pipeline.shards.index import BadShardsError, ShardIndex, build_index, group_tars, open_index
from pipeline.shards.links import link_tars
from pipeline.shards.tars import Fault, Members, Scan
from tools.command import bar_interval_s
from tools.shards.dali_index import write_dali_index
from tools.shards.exclude import exclude_faulty, read_bad_samples, sample_of
from tools.shards.parts.options import check_parts, check_workers
from tools.shards.parts.verification import verify_part
from tools.shards.progress import progress_bar
from tools.shards.stats import collect_stats, describe_stats
from tools.shards.units_check import remove_stale_units
from tools.shards.verify import Report, read_indexes, verify_folder


def run_units(options: argparse.Namespace) -> int:
    """Writes where the units of addressable JPEGs lie, for the indexes that are there."""
    from tools.shards.units_files import write_units_files

    check_workers(options)
    indexes = [open_index(options.folder, index.split) for index in read_indexes(options.folder)]
    with progress_bar() as progress:
        progress.on_total(sum(len(index.shard) for index in indexes), 0)
        found = write_units_files(indexes, workers=options.workers, on_images=progress.on_images)
    facts = {index.split: {"num_samples": len(index.shard), "num_addressable": found[index.split]} for index in indexes}
    if options.json:
        print(json.dumps({"splits": facts}, indent=2))
        return 0
    for split, fact in facts.items():
        print(f"{split}: {fact['num_addressable']:,} of {fact['num_samples']:,} images are addressable")
    return 0


def run_index(options: argparse.Namespace) -> int:
    """Indexes tars that are there already. Returns 1 where ``--check`` finds a fault that is not excluded."""
    check_workers(options)
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
    check_workers(options)
    check_parts(options, "exclude", "bad_samples")
    if options.part is not None:
        return _verify_part(options)
    bad_samples = named_samples(options)
    report, lines = _verified(options.folder, options, bad_samples, ray=options.ray)
    print(json.dumps(report.as_json(), indent=2) if options.json else "\n".join(lines))
    return 1 if report.faults else 0


def named_samples(options: argparse.Namespace) -> list[Fault]:
    """What ``--bad-samples`` names."""
    bad_samples = [fault for path in options.bad_samples for fault in read_bad_samples(path)]
    if bad_samples and not options.exclude:
        raise ValueError("--bad-samples names samples to leave out; give --exclude with it")
    return bad_samples


def _verify_part(options: argparse.Namespace) -> int:
    """Returns 0 whatever was found: merge tells it of all parts."""
    left = verify_part(options.folder, options.part, workers=options.workers, show_progress=True)
    if options.json:
        faults = [asdict(fault) for fault in left.faults]
        print(json.dumps({"part": str(options.part), "num_shards": left.num_shards, "faults": faults}, indent=2))
        return 0
    for fault in left.faults:
        print(fault)
    print(
        f"part {options.part}: {len(left.faults)} fault(s) in {left.num_shards} shards, kept in {left.path}; when all "
        f"parts are done: python -m tools.shards merge {options.folder}"
    )
    return 0


def _verified(
    folder: Path,
    options: argparse.Namespace,
    bad_samples: Sequence[Fault] = (),
    splits: Collection[str] | None = None,
    ray: str | None = None,
) -> tuple[Report, list[str]]:
    report = verify_folder(folder, workers=options.workers, ray=ray, show_progress=True, splits=splits)
    return without_excluded(folder, report, options.exclude, bad_samples, splits)


def without_excluded(
    folder: Path,
    report: Report,
    exclude: bool,
    bad_samples: Sequence[Fault] = (),
    splits: Collection[str] | None = None,
) -> tuple[Report, list[str]]:
    """What a verification found, with what is left out by ``--exclude`` apart, and the same in lines for people."""
    found, lists = report.faults, dict[Path, Exclusion]()
    if exclude:
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
