"""A profile from its inputs to its table."""

import argparse
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from engine.bad_data import one_data_error
from engine.config import load_config
from engine.prepare import prepare
from engine.progress import say
from engine.ranks.preflight import check_same_inputs, check_same_software, describe_devices
from engine.ranks.world import World, on_first_rank, one_clear_error
from engine.run.out_of_memory import clear_out_of_memory
from tools.profile.measure import profile_run, stages_to_profile
from tools.profile.output import progress, write
from tools.profile.result import describe


def profile(parse: Callable[[], argparse.Namespace], argv: Sequence[str], world: World) -> None:
    """One profile. Collective.

    Args:
        parse: reads the command line ``argv``; an error of it is told once, by all ranks.

    Raises:
        SystemExit: on every rank, for an input or data that cannot be used.
    """
    check_same_software(world)
    with one_clear_error(world):
        options = parse()
        prepared = prepare(load_config(options.config, options.set), world)
    stop_step = prepared.plan.total_steps
    check_same_inputs(world, prepared.config, prepared.indexes, stop_step=stop_step, maps=prepared.maps)
    if world.is_first:
        say("\n".join(describe_devices(world)))
    num_stages = len(stages_to_profile(prepared.plan.schedule, full_patches=prepared.config.task != "pretrain"))
    total = num_stages * (1 + options.repeats)
    bar = tqdm(total=total, unit="stage", disable=not (world.is_first and sys.stderr.isatty()))
    with one_data_error(world), clear_out_of_memory(world, prepared.config), bar:
        found, traces = profile_run(
            prepared,
            world,
            loads=not options.step_only,
            trains=not options.loader_only,
            seconds=options.seconds,
            repeats=options.repeats,
            progress=progress(bar, world),
            traces=options.trace is not None,
        )
    with one_clear_error(world):
        on_first_rank(world, lambda: write(found, traces, options, argv, world, prepared.config))
    if world.is_first:
        say(describe(found))
