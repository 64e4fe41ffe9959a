"""How accurate is a trained model at each keep rate, under each rule, and what does it cost?

    python -m tools.sweep runs/fashion_mnist --rules contrast magnitude --keep-rates 1 0.6 0.2

Takes finished runs and their whole validation sets, each of several by itself (``val`` in the results). Under
``deepspeed --no_local_rank --module tools.sweep ...`` the ranks share the work. With --image-sizes and --patch-sizes
the same weights are shown images and patches of those sizes. Results go to sweep.jsonl in the output folder, a line for
each run, rule, size and keep rate; what is there already is not computed again, unless the weights, the validation set
or how it is read have changed. Where every patch is kept all rules are the same: there one is measured for all, and
their lines name it (same_as). sweep.csv and sweep.png show what the last call asked for.

Exit codes: 0 done, 2 an input that cannot be used, 3 an image or a shard that turned out to be bad (one line on stderr
says which), 130 interrupted by Ctrl-C: the same command goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from engine.command_line import Parser, importing, interruptible, leave, stdout_apart
from pipeline.files import user_path
from tools.command import show

with importing():
    from engine.ranks.rendezvous import Place, look_first
    from engine.run.finished import check_classifier, finished_config
    from engine.run.inputs import check_labels, open_maps
    from pipeline.selection.config import rule_forms, rule_from_text
    from pipeline.shards.data_sets import open_val
    from tools.sweep.sizes import sizes_of
    from tools.sweep.tables import describe, write_files

KEEP_RATES = (1.0, 0.8, 0.6, 0.4, 0.2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.sweep", __doc__)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--keep-rates",
        type=float,
        nargs="+",
        default=list(KEEP_RATES),
        metavar="RATE",
        help="shares of the patches (default: 1 to 0.2)",
    )
    parser.add_argument(
        "--rules", nargs="+", default=[], metavar="RULE", help=f"{rule_forms()} (default: the run's own)"
    )
    for what, about in (("image", "sides of the images"), ("patch", "sides of the patches")):
        parser.add_argument(
            f"--{what}-sizes",
            type=int,
            nargs="+",
            default=[],
            metavar="PIXELS",
            help=f"{about}, in pixels (default: the run's own)",
        )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key of the runs")
    parser.add_argument("--out", type=user_path, help="folder of the results (default, for one run: RUN/sweep)")
    parser.add_argument("--json", action="store_true", help="print the results for programs")
    options = parser.parse_args(arguments)
    if len({folder.resolve() for folder in options.runs}) < len(options.runs):
        raise ValueError("a run is named twice; name each once")
    if options.out is None and len(options.runs) > 1:
        raise ValueError("several runs share one folder of results: name it with --out")
    options.out = options.out or options.runs[0] / "sweep"
    for name in ("keep_rates", "image_sizes", "patch_sizes"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    for rule in dict.fromkeys(options.rules):
        rule_from_text(rule)
    options.rules = list(dict.fromkeys(options.rules))
    return options


def _shown(options: argparse.Namespace, lines: list[dict[str, Any]]) -> str:
    from engine.ranks.hardware import describe_hardware

    write_files(lines, options.out)
    if options.json:
        return json.dumps({"hardware": describe_hardware(), "results": lines}, indent=2)
    return f"{describe(lines)}\n\n{options.out}: sweep.jsonl, sweep.csv, sweep.png"


def _look(arguments: Sequence[str] | None, place: Place) -> None:
    """Look at a command line and what it names, in a moment. Raises ValueError or OSError."""
    options = _parse(arguments)
    rules = [rule_from_text(rule) for rule in options.rules]
    for folder in options.runs:
        config = finished_config(folder, options.set)
        check_classifier(folder, config)
        held = {one.key: one.index for one in open_val(config.data)}
        for index in held.values():
            check_labels(index, config.data.num_classes)
        sizes_of(config.data, options)
        for rule in rules or [config.selection]:
            open_maps(rule.map, held)


def _sweep(arguments: Sequence[str] | None, found: str | None) -> int:
    with stdout_apart():  # DeepSpeed's log goes to what is standard output when it is imported
        import torch.distributed as dist

        from engine.ranks.world import join_world, leave_world, one_clear_error
        from tools.sweep.jobs import sweep

    with stdout_apart():
        world = join_world(found)
        try:
            with one_clear_error(world):
                options = _parse(arguments)
            lines = sweep(options, world)
            with one_clear_error(world):
                text = _shown(options, lines) if world.is_first else ""
        except SystemExit as ending:
            dist.destroy_process_group()
            return int(ending.code or 0)
    if world.is_first:
        show(lambda: text)
    leave_world()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep, alone or as one of the ranks that a launcher has started, and print the table on the first."""
    with interruptible("the same command goes on where it stopped"):
        try:
            found = look_first(partial(_look, arguments))
        except SystemExit as ending:
            return int(ending.code or 0)
        return _sweep(arguments, found)


if __name__ == "__main__":
    leave(main())
