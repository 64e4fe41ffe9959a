"""Preview a run's patch sampling schedule, and what share of the examples its epochs see, before any image is read.

    python -m tools.schedule --config configs/imagenet_vit_b16_cyclic.yaml --png schedule.png

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which).
"""

import argparse
import json
from collections.abc import Sequence

from engine.command_line import Parser, importing, leave
from tools.command import add_picture_argument, answer

with importing():
    from engine.config import load_config
    from tools.schedule.preview import describe, preview, title_of


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.schedule", __doc__)
    parser.add_run_arguments()
    parser.add_argument("--json", action="store_true", help="print the preview for programs")
    add_picture_argument(parser, "draw the schedule into this file")
    return parser.parse_args(arguments)


def _shown(options: argparse.Namespace) -> str:
    shown = preview(load_config(options.config, options.set, preview=True))
    if options.png is not None:
        from tools.schedule.plot import draw

        draw(shown.schedule, shown.stages, f"{shown.config.name}: {title_of(shown.config)}", options.png)
    return json.dumps(shown.as_json(), indent=2) if options.json else describe(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the preview of a run's schedule, and draw it if asked."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
