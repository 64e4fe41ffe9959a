"""A run that needs more memory than there is ends with one line: what it was set to, and what to lower."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.config import RunConfig
from engine.ranks.rendezvous import USER_ERROR_EXIT_CODE
from engine.ranks.world import World
from pipeline.graph.faults import LoaderMemoryError, Memory, memory_that_ran_out

# What takes memory, most of it first.
_KEYS: dict[Memory, tuple[str, ...]] = {
    "gpu": (
        *("train.micro_batch_size", "train.tokens_per_micro_batch", "eval.micro_batch_size"),
        *("engine.precision", "engine.checkpoint_activations", "engine.zero_stage", "data.device"),
    ),
    "host": (
        *("data.prefetch_batches", "train.micro_batch_size", "eval.micro_batch_size"),
        *("data.num_threads", "data.echo", "engine.zero_stage"),
    ),
}
_REMEDIES: dict[Memory, str] = {
    "gpu": "lower train.micro_batch_size first (or eval.micro_batch_size, if it was in validation): the result stays "
    "the same, and so it does under engine.checkpoint_activations: true. data.device: cpu helps too (with "
    "--allow-change data.device where the run goes on), and in a new run engine.precision: bf16, and on several ranks "
    "engine.zero_stage 1 to 3",
    "host": "lower data.prefetch_batches or train.micro_batch_size (or eval.micro_batch_size, if it was in "
    "validation): the result stays the same; or start fewer ranks on this host",
}
_WHOSE: dict[Memory, str] = {"gpu": "the GPU's memory", "host": "this host's memory"}
_MOST_CHARACTERS = 300


@contextmanager
def clear_out_of_memory(world: World, config: RunConfig) -> Iterator[None]:
    """Turn an error of too little memory into one line, of the rank that has met it, and exit code 2.

    The other ranks fail in their next exchange with that rank, or are ended by the launcher. Not collective.

    Raises:
        SystemExit: with code 2.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = what_ran_out(error, config, on_gpu=world.device.type == "cuda")
        if text is None or getattr(error, "agreed", False):  # the latter is told by all ranks, elsewhere
            raise
        where = "" if world.size == 1 else f"{world.name(world.rank)}: "
        print(f"error: {where}{text}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)


def what_ran_out(error: BaseException, config: RunConfig, *, on_gpu: bool) -> str | None:
    """One line for people of an error of too little memory; None of any other.

    Args:
        on_gpu: whether the model is on a GPU.
    """
    if isinstance(error, LoaderMemoryError):
        return str(error)
    whose = memory_that_ran_out(error, on_gpu=on_gpu)
    if whose is None:
        return None
    words = " ".join(str(error).split())[:_MOST_CHARACTERS]
    was_set = ", ".join(f"{key} {_value_of(config, key)}" for key in _KEYS[whose])
    return f"{_WHOSE[whose]} is too small for this ({words}). The run has {was_set}: {_REMEDIES[whose]}"


def _value_of(config: RunConfig, key: str) -> str:
    """As the file would have it."""
    section, _, name = key.partition(".")
    return json.dumps(getattr(getattr(config, section), name)).strip('"')
