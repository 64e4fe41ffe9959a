"""How far does each rule keep the patches that the paper's rule keeps, and what does it cost?

    python -m tools.agreement runs/fashion_mnist

Takes a finished run's model and its validation images. For every keep rate: the share of the patches kept by the exact
magnitude rule (L1 norm of the embedded patch plus its position) that a rule keeps too, averaged over the images; the
rank correlation (Spearman) of the scores; and the time each rule takes to score and rank an image on one core.

The exact rule embeds the whole image, which is the work that selecting in the pipeline saves: it pays where the model
behind the embedding is much more expensive than the embedding. The estimates cost what their size says.

Score maps that lie beside the validation set stand in a table of their own, beside the rules that look at images.

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from engine.command_line import Parser, importing, leave
from pipeline.files import user_path
from tools.command import add_picture_argument, answer

with importing():
    from engine.run.finished import finished_config
    from pipeline.selection.maps import maps_beside
    from pipeline.shards.data_sets import open_first_val


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.agreement", __doc__)
    parser.add_argument("run", type=user_path, help="the folder of a finished run")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key of the run")
    parser.add_argument("--images", type=int, default=256, help="validation images (default: %(default)s)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the raw result")
    add_picture_argument(parser, "draw overlap against cost at keep 0.4")
    options = parser.parse_args(arguments)
    if options.images < 1:
        raise ValueError(f"--images is at least 1, got {options.images}")
    return options


def _shown(options: argparse.Namespace) -> str:
    names = maps_beside(open_first_val(finished_config(options.run, options.set).data))
    with importing():
        from engine.evaluation.trained import load_trained, validation_images, validation_map_scores
        from engine.ranks.hardware import describe_hardware
        from engine.snapshots import take_snapshot
        from tools.agreement.compare import REPEATS, compare, describe
        from tools.agreement.maps import compare_maps, describe_maps

    trained = load_trained(options.run, options.set)
    images = validation_images(trained.config, options.images)
    snapshot = take_snapshot(trained.model, 0)
    rules = compare(snapshot, images, trained.config.data.patch_size)
    scores = {name: validation_map_scores(trained.config, options.images, name) for name in names}
    maps = compare_maps(snapshot, images, trained.config.data.patch_size, scores)
    if options.json is not None:
        result = {
            "command": " ".join(["python -m tools.agreement", *sys.argv[1:]]),
            "hardware": describe_hardware(),
            "model": trained.config.model.model_dump(mode="json"),
            "num_images": len(images),
            "image_size": trained.config.data.image_size,
            "patch_size": trained.config.data.patch_size,
            "repeats": REPEATS,
            "rules": [asdict(rule) for rule in rules],
            "maps": [asdict(one) for one in maps],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    title = f"{trained.config.name}: agreement with the exact magnitude rule on {len(images)} validation images"
    if options.png is not None:
        from tools.agreement.plot import draw

        draw(rules, title, options.png)
    return describe(title, rules) + describe_maps(maps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the rules on a trained model and print the table."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
