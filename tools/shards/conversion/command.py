"""The commands that write shards: ``convert``, ``readdress`` and ``resize-levels``.

Raises ValueError or OSError where a command cannot be carried out.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.shards.images import Encoding
from tools.shards.levels.parse import parse_levels
from tools.shards.parts.options import check_parts, check_workers
from tools.shards.parts.told import print_part
from tools.shards.progress import going_on, progress_bar
from tools.shards.sources.source import SourceOptions
from tools.shards.sources.split_map import SplitMap
from tools.shards.sources.table import check_outside, open_source
from tools.shards.stats import gaps_between
from tools.shards.tally import describe_tally


def run_convert(options: argparse.Namespace) -> int:
    """Writes shards from a source. Returns 1 where more images were rejected than was allowed."""
    # Imported here: webdataset brings torch with it, which the other commands and the workers do without.
    from tools.shards.convert import Settings, convert, convert_part

    check_workers(options)
    check_parts(options, "max_rejected", "levels")
    levels = [] if options.levels is None else parse_levels(options.levels)
    encoding = Encoding(options.format, options.quality, options.resize_shorter, options.addressable)
    settings = Settings(options.val_fraction, options.shard_samples, options.shard_bytes, options.seed, encoding)
    check_outside(options.source, options.out)
    print(f"reading the list of {options.source}", file=sys.stderr)
    split_map = SplitMap() if options.split_map is None else SplitMap.parse(options.split_map)
    source_options = SourceOptions(split_map, options.image_column, options.label_column, options.join_classes)
    source = open_source(options.source, options.root, source_options)
    with progress_bar() as progress, going_on(options.out):
        if options.part is not None:
            shards = convert_part(
                source,
                options.source,
                options.out,
                settings,
                options.part,
                workers=options.workers,
                on_total=progress.on_total,
                on_images=progress.on_images,
            )
            return print_part(options.part, shards, options.out, options.json)
        conversion = convert(
            source,
            options.source,
            options.out,
            settings,
            workers=options.workers,
            ray=options.ray,
            on_total=progress.on_total,
            on_images=progress.on_images,
            on_phase=progress.on_phase,
        )
    print_conversion(conversion.dataset, conversion.was_finished, options.out, options.json)
    _resize(options.out, levels, options, ray=options.ray)
    return code_of_rejected(conversion.dataset, options.max_rejected)


def code_of_rejected(dataset: dict[str, Any], allowed: int | None) -> int:
    """The exit code of a conversion: 1, with a line on stderr, where more images were rejected than were allowed."""
    rejected, most = dataset["rejected"], allowed or 0
    if rejected <= most:
        return 0
    print(
        f"error: {rejected} image(s) were rejected and --max-rejected is {most}. The shards hold "
        f"all others and are complete; to accept that, run again with --max-rejected {rejected} "
        "(nothing is converted twice), or mend the images and convert into a new folder",
        file=sys.stderr,
    )
    return 1


def run_readdress(options: argparse.Namespace) -> int:
    """Writes shards anew with addressable JPEGs."""
    from tools.shards.readdress import readdress, readdress_part

    check_workers(options)
    check_parts(options)
    with progress_bar() as progress, going_on(options.out):
        if options.part is not None:
            shards = readdress_part(
                options.folder,
                options.out,
                options.part,
                workers=options.workers,
                on_total=progress.on_total,
                on_images=progress.on_images,
            )
            return print_part(options.part, shards, options.out, options.json)
        dataset, was_finished = readdress(
            options.folder,
            options.out,
            workers=options.workers,
            ray=options.ray,
            on_total=progress.on_total,
            on_images=progress.on_images,
            on_phase=progress.on_phase,
        )
    print_conversion(dataset, was_finished, options.out, options.json)
    return 0


def run_resize_levels(options: argparse.Namespace) -> int:
    """Writes smaller images of the training samples beside their shards."""
    check_workers(options)
    made = _resize(options.folder, parse_levels(options.levels), options)
    if options.json:
        print(
            json.dumps({"levels": {str(pixels): _level_as_json(dataset) for pixels, dataset in made.items()}}, indent=2)
        )
    return 0


def _resize(
    folder: Path, levels: Sequence[int], options: argparse.Namespace, ray: str | None = None
) -> dict[int, dict[str, Any]]:
    """Write levels and, for people, say what they hold."""
    if not levels:
        return {}
    from tools.shards.levels.resize import resize_levels

    with progress_bar() as progress:
        made = resize_levels(
            folder,
            levels,
            addressable=options.addressable,
            workers=options.workers,
            ray=ray,
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


def print_conversion(dataset: dict[str, Any], was_finished: bool, out: Path, as_json: bool) -> None:
    """What the shards hold, for people or for programs."""
    from tools.shards.dataset import REJECTED_NAME

    # Older conversions did not count what was passed over or encoded anew.
    rejected, passed_over = dataset["rejected"], dataset.get("passed_over", {})
    reencoded = dataset.get("reencoded", {})
    if as_json:
        keys = ("num_samples", "num_shards", "num_bytes", "class_counts", "addressable")
        splits = {name: {key: split[key] for key in keys if key in split} for name, split in dataset["splits"].items()}
        told = {"was_finished": was_finished, "rejected": rejected, "reencoded": reencoded, "passed_over": passed_over}
        print(json.dumps({**told, "splits": splits}, indent=2))
        return
    if was_finished:
        print(f"{out} holds this very conversion already; nothing to do. To do it anew, remove the folder.")
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
        print(f"rejected: {rejected}, each named in {out / REJECTED_NAME}")
