"""Make, index, check and look at shards.

    python -m tools.shards convert --source fashion_mnist --out data/fashion_mnist
    python -m tools.shards verify data/fashion_mnist

Each of convert, readdress, merge, append, resize-levels, index, units, verify, stats and score has a --help of its own.

Exit codes: 0 fine, 1 faults or too many rejected images were found, 2 the command could not be carried out (one line on
stderr says why), 130 interrupted by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.command_line import INTERRUPTED_EXIT_CODE, Parser, importing, interruptible, leave
from pipeline.cores import allowed_cores
from pipeline.files import user_path
from tools.command import dali_named, only_printed, told

with importing():
    from tools.shards.appending.command import add_append_arguments, run_append
    from tools.shards.commands import run_stats, run_units, run_verify
    from tools.shards.conversion.command import run_readdress, run_resize_levels
    from tools.shards.images import DEFAULT_QUALITY, FORMATS
    from tools.shards.maps.command import add_score_arguments, run_score
    from tools.shards.parts.command import add_merge_arguments, run_merge
    from tools.shards.parts.options import add_part_arguments
    from tools.shards.sources.table import sources_help
    from tools.shards.stores.arguments import place_argument
    from tools.shards.stores.command import run_convert, run_index

_GOES_ON = "the same command goes on where it stopped"
_MERGED = "then merge joins them"
_AFTER_INTERRUPTION: dict[Callable[[argparse.Namespace], int], str] = {
    run_convert: _GOES_ON,
    run_readdress: _GOES_ON,
    run_resize_levels: _GOES_ON,
    run_score: _GOES_ON,
    run_merge: "the parts are as they were; the same command begins anew",
    run_append: "the set is as it was or has the new shards; the same command begins anew, or says that they are there",
    run_index: "the indexes that are written stay; the same command makes all of them anew",
    run_units: "the files that are written stay; the same command makes all of them anew",
    run_verify: "nothing was changed or listed; the same command begins anew",
    run_stats: "nothing was changed",
}


def _parser() -> Parser:
    parser = Parser.of("tools.shards", __doc__)
    commands = parser.add_subparsers(
        required=True, metavar="{convert,readdress,merge,append,resize-levels,index,units,verify,stats,score}"
    )

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str, example: str, more: str = "") -> Any:
        shown = f"{parser.prog} {name} {example}"
        one = commands.add_parser(name, help=text, description=text, example=shown, epilog=more or None)
        one.set_defaults(command=command)
        return one

    cores = allowed_cores()
    one = add(
        "convert",
        run_convert,
        "Make WebDataset shards, with their indexes, from labelled images.",
        "--source imagefolder:/data/imagenet --out data/imagenet --addressable",
    )
    one.add_argument("--source", required=True, help=sources_help())
    one.add_argument(
        "--out",
        type=place_argument,
        required=True,
        help="folder for the shards, or the address of one in a store, s3://bucket/prefix or gs://...",
    )
    one.add_argument(
        "--staging",
        type=user_path,
        default=Path("data/staging"),
        help="where shards for a store are made, whole, before they are sent there (default: %(default)s)",
    )
    one.add_argument(
        "--split-map",
        metavar="NAME=SPLIT,...",
        help="which files, folders or values of a column `split` are train, val or test, such as "
        "'holdout=val,part-*=train'; the first name or pattern that fits decides, and what none fits is known by its "
        "own name (train, training, val, valid, validation, dev, test, testing, eval, evaluation)",
    )
    one.add_argument("--image-column", metavar="NAME", help="of csv and parquet (default: path, and image)")
    one.add_argument("--label-column", metavar="NAME", help="of csv and parquet (default: label)")
    one.add_argument(
        "--join-classes",
        action="store_true",
        help="of parquet: join files that number their classes differently by name (default: refuse them)",
    )
    one.add_argument("--val-fraction", type=float, default=0.0, help="share held out as val (default: none)")
    one.add_argument(
        "--shard-samples", type=int, default=1000, help="images of a shard, with rejected ones (default: %(default)s)"
    )
    one.add_argument(
        "--shard-bytes",
        type=int,
        help="bytes after which a shard ends earlier (default: none do; --shard-samples alone plans the shards)",
    )
    one.add_argument("--seed", type=int, default=0, help="for the order and the held-out share (default: 0)")
    one.add_argument("--workers", type=int, default=cores, help="processes (default: one a core, here %(default)s)")
    one.add_argument(
        "--resize-shorter",
        "--resize",
        type=int,
        metavar="N",
        help="shrink images whose shorter side is longer than N pixels to N there, with antialiasing, and encode them "
        f"anew (JPEG and WebP at --quality, default {DEFAULT_QUALITY}); smaller ones stay as they are",
    )
    one.add_argument(
        "--format",
        choices=FORMATS,
        default="keep",
        help="keep stores images as they are, and as PNG those that the loader cannot use as they are; the others "
        "convert those of another format (default: %(default)s)",
    )
    one.add_argument(
        "--quality",
        type=int,
        help=f"of JPEG and WebP, 1 to 100 (default: {DEFAULT_QUALITY}); with --format jpeg or webp, images that have "
        "that format already are encoded anew only if this is given",
    )
    one.add_argument(
        "--addressable",
        action="store_true",
        help="write JPEGs so that each unit of 8 or 16 pixels can be reached alone: those that are not encoded anew "
        "are transcoded by jpegtran without loss; what cannot be stays as it is and is counted (docs/addressable.md)",
    )
    one.add_argument(
        "--levels",
        metavar="N,...",
        help="then write smaller images of the training samples beside their shards, as resize-levels does, such as "
        "256,128",
    )
    one.add_argument("--max-rejected", type=int, help="unreadable images to put up with (default: 0)")
    one.add_argument(
        "--root", type=user_path, default=Path("data/downloads"), help="where downloads are kept (default: %(default)s)"
    )
    add_part_arguments(one, _MERGED)
    one.add_argument("--json", action="store_true", help="print what the shards hold for programs")

    one = add(
        "readdress",
        run_readdress,
        "Write shards anew with JPEGs each of whose units can be reached alone, without loss; all else stays the same.",
        "data/imagenet --out data/imagenet-addressable --workers 16",
    )
    one.add_argument("folder", type=user_path, metavar="DIR", help="folder of the shards, of this program or another")
    one.add_argument(
        "--out", type=user_path, required=True, help="folder for the new shards; an interrupted call goes on"
    )
    one.add_argument("--workers", type=int, default=cores, help="processes (default: one a core, here %(default)s)")
    add_part_arguments(one, _MERGED)
    one.add_argument("--json", action="store_true", help="print what the shards hold for programs")

    one = add(
        "merge",
        run_merge,
        "Join the parts of convert, readdress or verify: what is left is what one machine would have left. Parts that "
        "are missing, unfinished, doubled or differ are named.",
        "data/imagenet",
    )
    add_merge_arguments(one)

    one = add(
        "append",
        run_append,
        "Append shards to a set, behind its own, with what lies beside them. Classes that the set has not are refused. "
        "At any moment, a kill's too, the set is as it was or as it is to be.",
        "data/imagenet data/imagenet-2027",
        more="A run goes on over the larger set with --allow-change data.train.fingerprint.",
    )
    add_append_arguments(one)

    one = add(
        "resize-levels",
        run_resize_levels,
        "Write smaller images of the same training samples, in the same order, beside their shards: in DIR/level-256 "
        f"and the like. They are shrunk with antialiasing (bicubic); JPEG and WebP have quality {DEFAULT_QUALITY}.",
        "data/imagenet --levels 256,128 --workers 16",
        more="A run takes small crops from them with data.levels: [256, 128].",
    )
    one.add_argument("folder", type=user_path, metavar="DIR", help="folder of the indexed shards")
    one.add_argument(
        "--levels",
        required=True,
        metavar="N,...",
        help="pixels of the shorter side of each level; images that are no larger are copied as they are",
    )
    one.add_argument(
        "--addressable",
        action="store_true",
        help="write JPEGs so that each unit of 8 or 16 pixels can be reached alone (docs/addressable.md); those that "
        "are copied stay as they are",
    )
    one.add_argument("--workers", type=int, default=cores, help="processes (default: one a core, here %(default)s)")
    one.add_argument("--json", action="store_true", help="print what the levels hold for programs")

    one = add(
        "index",
        run_index,
        "Index shards that another program wrote, without rewriting them.",
        "/data/imagenet-wds --split train --pattern 'imagenet1k-train-*.tar'",
    )
    one.add_argument("folder", type=place_argument, metavar="DIR", help="folder of the tars, or its address in a store")
    one.add_argument(
        "--out",
        type=user_path,
        metavar="DIR",
        help="where the folder of the tars cannot be written: make links to them in DIR, and the index and its like "
        "beside those; DIR is then the folder of the shards (default: beside the tars)",
    )
    one.add_argument("--split", help="name of the split that --pattern selects (default: taken from the tars' names)")
    one.add_argument("--pattern", help="tars of that split, for example 'imagenet1k-train-*.tar'")
    one.add_argument("--label-field", help="field of the json members that holds the label (default: cls, or label)")
    one.add_argument(
        "--image-member",
        metavar="EXT",
        help="extension of the images, all behind the first dot of their names, such as input.jpg (default: jpg, jpeg, "
        "png, webp or bmp)",
    )
    one.add_argument(
        "--label-member",
        metavar="EXT",
        help="extension of the members with the labels, such as cls.txt: a number, or json with a field (default: cls, "
        "or json)",
    )
    one.add_argument(
        "--exclude",
        action="store_true",
        help="leave samples out that have no image, no label or a broken header, and list them (train.exclude)",
    )
    one.add_argument(
        "--check",
        action="store_true",
        help="then decode every image as verify does and name each that the loader cannot use; with --exclude they "
        "are listed too",
    )
    one.add_argument(
        "--workers", type=int, default=cores, help="processes of --check (default: one a core, here %(default)s)"
    )
    one.add_argument("--json", action="store_true", help="print what the indexes hold for programs")

    one = add(
        "units",
        run_units,
        "Write, beside each indexed shard, where the units of its addressable JPEGs lie.",
        "/data/imagenet-wds",
    )
    one.add_argument("folder", type=user_path, metavar="DIR")
    one.add_argument("--workers", type=int, default=cores, help="processes (default: one a core, here %(default)s)")
    one.add_argument("--json", action="store_true", help="print the numbers of addressable images for programs")

    one = add(
        "verify",
        run_verify,
        "Hold index, tars and every image against one another, and name each fault. Every image is decoded by Pillow "
        "and by the loader's own decoder.",
        "data/imagenet --workers 16",
    )
    one.add_argument("folder", type=user_path, metavar="DIR")
    one.add_argument("--json", action="store_true", help="print a report for programs")
    one.add_argument(
        "--exclude",
        action="store_true",
        help="list the faulty samples beside the index (train.exclude), so that the loader leaves them out",
    )
    one.add_argument(
        "--bad-samples",
        type=user_path,
        action="append",
        default=[],
        metavar="FILE",
        help="list these as well: bad_samples.jsonl from a run's folder; may be repeated",
    )
    one.add_argument("--workers", type=int, default=cores, help="processes (default: one a core, here %(default)s)")
    add_part_arguments(one, _MERGED)

    one = add("stats", run_stats, "Print counts, classes, sizes, levels.", "data/imagenet")
    one.add_argument("folder", type=user_path, metavar="DIR")
    one.add_argument("--json", action="store_true", help="print them for programs")

    one = add(
        "score",
        run_score,
        "Make score maps beside the shards: by them patches are chosen before images are read.",
        "data/imagenet --by contrast",
        more="A run chooses patches by them with selection: {rule: map, map: contrast}.",
    )
    add_score_arguments(one, cores)
    add_part_arguments(one, "there is nothing to join: the same command without --part makes what is missing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 fine, 1 faults or too many rejected images were found, 2 the command could not be carried out."""
    try:
        with interruptible():
            options = _parser().parse_args(arguments)
    except ValueError as error:
        return told(error)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with only_printed(), dali_named():
            return command(options)
    except (ValueError, OSError) as error:
        return told(error)
    except KeyboardInterrupt:
        print(f"error: interrupted; {_AFTER_INTERRUPTION[command]}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


if __name__ == "__main__":
    leave(main())
