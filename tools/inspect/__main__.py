"""See one step of a run: which samples it trains on, how each is cropped, and which patches are kept.

    python -m tools.inspect --config configs/fashion_mnist.yaml --step 120 --png step.png

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which).
"""

import argparse
import json
from collections.abc import Sequence

from engine.command_line import Parser, importing, leave
from tools.command import add_picture_argument, answer

with importing():
    from engine.config import load_config
    from engine.evaluation.held_images import check_batches
    from tools.inspect.inspection import class_names, describe, inspect_step, row_label


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.inspect", __doc__)
    parser.add_run_arguments()
    parser.add_argument("--step", type=int, required=True, help="training step, counted from 0")
    parser.add_argument("--rank", type=int, default=0, help="whose part of the batch (default: %(default)s)")
    parser.add_argument("--world", type=int, default=1, help="number of ranks (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the plan for programs")
    add_picture_argument(parser, "draw the images, dropped patches greyed out")
    add_picture_argument(parser, "draw the first image under every operation of data.augment.auto", name="--operations")
    text = "draw what is decoded of the first images: of addressable JPEGs just what lies under kept patches"
    add_picture_argument(parser, text, name="--decoded")
    return parser.parse_args(arguments)


def _shown(options: argparse.Namespace) -> str:
    shown = inspect_step(load_config(options.config, options.set), options.step, options.rank, options.world)
    if options.png or options.operations or options.decoded:
        check_batches(shown.config, shown.plan.num_rows, num_val_samples=0, local_size=1)
    if options.png is not None:
        from tools.inspect.picture import draw  # here, so that a plan is printed without waiting for DALI

        names = class_names(shown)
        labels = [row_label(shown.plan, row, names) for row in range(shown.plan.num_rows)]
        draw(shown.planner, shown.plan, shown.title(), labels, options.png)
    if options.operations is not None:
        from tools.inspect.operations import draw_operations

        draw_operations(shown.planner, shown.plan, f"{shown.config.name}, step {shown.plan.step}", options.operations)
    if options.decoded is not None:
        from tools.inspect.decoded import draw_decoded

        draw_decoded(shown.planner, shown.plan, f"{shown.config.name}, step {shown.plan.step}", options.decoded)
    return json.dumps(shown.as_json(), indent=2) if options.json else describe(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan of a step, and draw its images if asked."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
