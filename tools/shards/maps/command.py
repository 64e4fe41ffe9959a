"""The command ``tools.shards score``."""

import argparse

from pipeline.files import user_path
from pipeline.selection.maps import GRID_SIZE
from tools.shards.maps.kinds import KINDS, kind_forms
from tools.shards.maps.score import MapJob, score_folder


def run_score(options: argparse.Namespace) -> int:
    """Writes score maps beside shards, and says how many.

    Raises:
        ValueError, OSError: see ``score_folder``.
    """
    job = MapJob(options.by, options.name, options.grid, options.weights)
    done = score_folder(
        options.folder,
        job,
        split=options.split,
        part=options.part,
        workers=options.workers,
        ray=options.ray,
        show_progress=True,
    )
    if options.part is not None:
        print(f"part {options.part}:")
    for one in done:
        print(
            f"{one.split}: maps {job.map_name} of {one.num_samples:,} samples, {job.grid_size} x {job.grid_size} bytes "
            f"each; {one.num_made} shard(s) scored, {one.num_there} had them already"
        )
    print(f"to choose patches by them: selection: {{rule: map, map: {job.map_name}}}")
    return 0


def add_score_arguments(one: argparse.ArgumentParser, cores: int) -> None:
    """The options of ``score``."""
    kinds = "; ".join(f"{kind.form(name)}: {kind.about}" for name, kind in KINDS.items())
    one.add_argument("folder", type=user_path, metavar="DIR")
    one.add_argument("--by", required=True, metavar="KIND", help=f"{kind_forms()}. {kinds}")
    one.add_argument("--weights", type=user_path, metavar="FILE", help="of a convnet, where timm's cache has none")
    one.add_argument("--grid", type=int, default=GRID_SIZE, help="cells along a side of a map (default: %(default)s)")
    one.add_argument("--name", help="of the maps, for selection.map (default: the kind's)")
    one.add_argument(
        "--workers",
        type=int,
        default=cores,
        help="processes, where no model computes (default: one a core, here %(default)s)",
    )
    one.add_argument("--split", help="the split to score (default: all that have an index)")
