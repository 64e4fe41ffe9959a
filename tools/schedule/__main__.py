"""Preview a run's patch sampling schedule, and what share of the examples its epochs see, before any image is read.

    python -m tools.schedule --config configs/imagenet_vit_b16_cyclic.yaml --png schedule.png
    python -m tools.schedule --config configs/fashion_mnist.yaml --profile profile.json

With what ``python -m tools.profile --json`` wrote of the same model on this machine, whatever schedule was profiled,
also what the schedule's training steps will take; and with ``--hosts`` and ``--link-gbit-per-s`` what they will on
several such hosts, of which the profile is one with its share of the batch.

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which).
"""

import argparse
import json
import math
from collections.abc import Sequence

from engine.command_line import Parser, importing, leave
from pipeline.files import user_path
from tools.command import add_picture_argument, answer

with importing():
    from engine.config import load_config
    from tools.profile.saved import read_profile
    from tools.schedule.prediction import check_is_here, cost_of, predict
    from tools.schedule.preview import describe, preview, title_of
    from tools.schedule.told import describe_prediction


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.schedule", __doc__)
    parser.add_run_arguments()
    parser.add_argument("--json", action="store_true", help="print the preview for programs")
    add_picture_argument(parser, "draw the schedule into this file")
    parser.add_argument(
        "--profile", type=user_path, metavar="FILE", help="what tools.profile --json wrote: tell the time"
    )
    parser.add_argument("--hosts", type=int, default=1, help="such machines that train together (default: %(default)s)")
    parser.add_argument("--link-gbit-per-s", type=float, metavar="B", help="of each host's network, each way")
    options = parser.parse_args(arguments)
    if options.hosts < 1:
        raise ValueError(f"--hosts is at least 1, got {options.hosts}")
    if (options.hosts > 1) != (options.link_gbit_per_s is not None):
        raise ValueError("--hosts above 1 and --link-gbit-per-s are given together: the line is between hosts")
    rate = options.link_gbit_per_s
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"--link-gbit-per-s is above 0, got {rate:g}")
    if options.hosts > 1 and options.profile is None:
        raise ValueError("--hosts tells a time, for which --profile is needed; give what tools.profile --json wrote")
    return options


def _shown(options: argparse.Namespace) -> str:
    config = load_config(options.config, options.set, preview=True)
    cost = None
    if options.profile is not None:
        profile = read_profile(options.profile)
        cost = cost_of(config, profile, options.hosts, options.link_gbit_per_s)
        check_is_here(profile)
    shown = preview(config)
    if options.png is not None:
        from tools.schedule.plot import draw

        draw(shown.schedule, shown.stages, f"{shown.config.name}: {title_of(shown.config)}", options.png)
    predicted = None if cost is None else predict(config, shown.schedule, cost)
    if options.json:
        return json.dumps({**shown.as_json(), **({} if predicted is None else predicted.as_json())}, indent=2)
    return "\n".join([describe(shown), *([] if predicted is None else ["", describe_prediction(predicted)])])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the preview of a run's schedule, and draw it if asked."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
