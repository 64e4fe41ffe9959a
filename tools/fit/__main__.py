"""Which schedules fit a budget of time? Configurations ready to run, one of each kind.

    python -m tools.fit --config configs/fashion_mnist.yaml --profile profile.json --budget 0.5

The budget is a share of the time of as many training steps at full patches, told by what ``python -m tools.profile
--json`` wrote of the same model on this machine, whatever schedule was profiled. Of each kind of schedule, of keep
rates, of sizes of images and patches and of examples, this finds the one that takes the budget, or up to a hundredth of
it less, and the arguments that make it of the configuration; those that see most patches come first. ``--out`` writes
the configurations, too.

Exit codes: 0 done, 2 an input that cannot be used, or a budget that nothing fits (one line on stderr says which).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine.command_line import Parser, importing, leave
from pipeline.files import user_path
from tools.command import answer

with importing():
    from engine.config import dump_config, load_config
    from pipeline.shards.data_sets import training_samples
    from tools.fit.proposals import Fitted, describe, fit
    from tools.profile.saved import read_profile
    from tools.schedule.prediction import check_is_here, cost_of


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.fit", __doc__)
    parser.add_run_arguments()
    parser.add_argument(
        "--profile", type=user_path, required=True, metavar="FILE", help="what tools.profile --json wrote"
    )
    parser.add_argument("--budget", type=float, required=True, help="share of the time at full patches, such as 0.5")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="write each as DIR/NAME_KIND.yaml")
    options = parser.parse_args(arguments)
    if not 0 < options.budget <= 1:
        raise ValueError(
            f"--budget is a share of the time at full patches, above 0 and at most 1, got {options.budget:g}"
        )
    return options


def _shown(options: argparse.Namespace) -> str:
    config = load_config(options.config, options.set)
    profile = read_profile(options.profile)
    cost = cost_of(config, profile)
    check_is_here(profile)
    found = fit(config, cost, training_samples(config.data), options.budget)
    told = describe(found, options.budget, cost)
    if options.out is None:
        return told
    return "\n".join([told, "", *(f"written: {path}" for path in _write(found, options.out))])


def _write(found: Fitted, folder: Path) -> list[Path]:
    """One configuration for each proposal. Raises OSError: a file is there already, or cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for proposal in found.proposals:
        name = f"{proposal.config.name}_{proposal.kind}"
        path = folder / f"{name}.yaml"
        with path.open("x") as file:
            file.write(dump_config(proposal.config.model_copy(update={"name": name})))
        written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the schedules that fit a budget, and write them if asked."""
    return answer(lambda: _parse(arguments), _shown)


if __name__ == "__main__":
    leave(main())
