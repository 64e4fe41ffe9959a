"""The commands of ``tools.shards``: each takes its options, prints what it found and returns the exit code.

Raises ValueError or OSError where a command cannot be carried out.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.shards.exclusion import Exclusion, exclusion_path, known_samples
from pipeline.shards.index import BadShardsError, ShardIndex, build_index, group_tars
from pipeline.shards.tars import Fault, Scan
from tools.command import bar_interval_s
from tools.shards.dali_index import write_dali_index
from tools.shards.exclude import exclude_faulty, read_bad_samples
from tools.shards.images import Encoding
from tools.shards.sources.table import open_source
from tools.shards.stats import collect_stats, describe_stats
from tools.shards.verify import read_indexes, verify_folder

if TYPE_CHECKING:
    from tools.shards.convert import Conversion


def run_convert(options: argparse.Namespace) -> int:
    """Writes shards from a source. Returns 1 where more images were rejected than was allowed."""
    from tqdm import tqdm

    # Imported here: webdataset brings torch with it, which the other commands and the workers do without.
    from tools.shards.convert import Settings, convert
    from tools.shards.journal import JOURNAL_NAME

    if options.workers < 1:
        raise ValueError(f"workers {options.workers}; allowed is 1 or more")
    encoding = Encoding(options.format, options.quality, options.resize_shorter)
    settings = Settings(options.val_fraction, options.shard_samples, options.shard_bytes, options.seed, encoding)
    print(f"reading the list of {options.source}", file=sys.stderr)
    source = open_source(options.source, options.root)
    with ExitStack() as stack:
        bars: list[tqdm[NoReturn]] = []

        def on_total(total: int, done: int) -> None:
            # Made only now, so that its rate does not count what an earlier call had done.
            bars.append(tqdm(total=total, initial=done, unit="img", mininterval=bar_interval_s()))
            stack.callback(bars[0].close)

        def on_images(count: int) -> None:
            bars[0].update(count)

        def on_phase(phase: str) -> None:
            bars[0].set_description(phase)

        try:
            conversion = convert(
                source,
                options.source,
                options.out,
                settings,
                workers=options.workers,
                on_total=on_total,
                on_images=on_images,
                on_phase=on_phase,
            )
        except OSError as error:
            if not (options.out / JOURNAL_NAME).exists():
                raise
            raise OSError(f"{error}; the finished shards are kept, and the same command goes on from there") from error
    _print_conversion(conversion, options)
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


def _print_conversion(conversion: "Conversion", options: argparse.Namespace) -> None:
    """What the shards hold, for people or for programs."""
    from tools.shards.convert import REJECTED_NAME

    rejected = conversion.dataset["rejected"]
    if options.json:
        keys = ("num_samples", "num_shards", "num_bytes", "class_counts")
        splits = {name: {key: split[key] for key in keys} for name, split in conversion.dataset["splits"].items()}
        result = {"was_finished": conversion.was_finished, "rejected": rejected, "splits": splits}
        print(json.dumps(result, indent=2))
        return
    if conversion.was_finished:
        print(f"{options.out} holds this very conversion already; nothing to do. To do it anew, remove the folder.")
    for name, split in conversion.dataset["splits"].items():
        print(
            f"{name}: {split['num_samples']:,} images of {len(split['class_counts'])} classes "
            f"in {split['num_shards']} shards, {split['num_bytes'] / 1e6:,.1f} MB"
        )
    if rejected:
        print(f"rejected: {rejected}, each named in {options.out / REJECTED_NAME}")


def run_index(options: argparse.Namespace) -> int:
    """Indexes tars that are there already."""
    folder: Path = options.folder
    if (options.split is None) != (options.pattern is None):
        raise ValueError("--split and --pattern go together: --split train --pattern 'imagenet1k-train-*.tar'")
    groups = group_tars(folder) if options.split is None else {options.split: sorted(folder.glob(options.pattern))}
    if not any(groups.values()):
        raise FileNotFoundError(f"{folder}: no tar {'here' if options.pattern is None else options.pattern}")
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
                    label_field=options.label_field,
                    on_shard=on_shard,
                    leave_out_faulty=options.exclude,
                )
                indexes.append(index)
            except BadShardsError as error:
                bar.close()
                for fault in error.faults:
                    print(fault)
                raise
    if options.json:
        print(json.dumps({"splits": {index.split: _index_as_json(index) for index in indexes}}, indent=2))
        return 0
    for index in indexes:
        print(
            f"{index.split}: {index.num_samples:,} samples in {len(index.shards)} shards, labels {index.min_label} to "
            f"{index.max_label}"
        )
        for sample in known_samples(exclusion_path(index.folder, index.split), index.fingerprint):
            print(f"left out: {Fault(sample.shard, sample.key, sample.reason)}")
    return 0


def _index_as_json(index: ShardIndex) -> dict[str, Any]:
    excluded = known_samples(exclusion_path(index.folder, index.split), index.fingerprint)
    return {
        "num_samples": index.num_samples,
        "num_shards": len(index.shards),
        "min_label": index.min_label,
        "max_label": index.max_label,
        "fingerprint": index.fingerprint,
        "excluded": [asdict(sample) for sample in excluded],
    }


def run_verify(options: argparse.Namespace) -> int:
    """Names each fault of a folder of shards. Returns 1 where there is one that is not excluded."""
    bad_samples = [fault for path in options.bad_samples for fault in read_bad_samples(path)]
    if bad_samples and not options.exclude:
        raise ValueError("--bad-samples names samples to leave out; give --exclude with it")
    report = verify_folder(options.folder, workers=options.workers, show_progress=True)
    lists: dict[Path, Exclusion] = {}
    if options.exclude:
        lists = exclude_faulty(read_indexes(options.folder), [*report.faults, *bad_samples])
        listed = {(sample.shard, sample.key) for exclusion in lists.values() for sample in exclusion.samples}
        remaining = [fault for fault in report.faults if (fault.shard, fault.key) not in listed]
        left_out, report = report.faults, replace(report, faults=remaining, num_excluded=len(listed))
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        for fault in left_out if options.exclude else report.faults:
            print(fault)
        for path, exclusion in lists.items():
            print(f"{path} lists {len(exclusion.samples)} sample(s), which the loader leaves out")
        found = f"{len(report.faults)} fault(s)" if report.faults else "no fault"
        besides = f" besides {report.num_excluded} excluded sample(s)" if report.num_excluded else ""
        print(f"{report.num_samples:,} samples in {report.num_shards} shards: {found}{besides}")
    return 1 if report.faults else 0


def run_stats(options: argparse.Namespace) -> int:
    """Prints what a folder of shards holds."""
    stats = collect_stats(options.folder)
    print(json.dumps(stats, indent=2) if options.json else describe_stats(stats))
    return 0
