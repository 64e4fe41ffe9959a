"""A run that goes on over a training set to which shards were appended since its checkpoint.

Epochs that have begun keep their samples and their order, those of the first shards; the larger set counts from the
next epoch on. That is written into the configuration (``data.growth``), from which everything follows, so the run's
folder and its checkpoints record it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from engine.config import RunConfig
from pipeline.growth import EpochLengths, Growth, GrowthConfig
from pipeline.plan.rows import earlier_epochs, steps_per_epoch
from pipeline.shards.data_sets import open_train
from pipeline.shards.index import ShardIndex
from pipeline.shards.level import Level
from pipeline.shards.shard import fingerprints_on_the_way, with_levels, without_samples

FINGERPRINT_KEY, GROWTH_KEY = "data.train.fingerprint", "data.growth"


def over_grown_data(
    config: RunConfig, manifest: Mapping[str, Any], allowed: Collection[str]
) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration that a run goes on with: how its training set has grown is part of it.

    What the checkpoint has recorded of that stays. A set that has grown since is found by its fingerprint, where
    ``allowed`` says that this may be another one; from which epoch on it counts may be stated in ``config`` itself.

    Args:
        config: as it was read.
        manifest: of the checkpoint that is gone on from; empty for a fresh run.
        allowed: keys given to ``--allow-change``.

    Returns:
        The configuration, and the keys that may differ from the checkpoint's because of that.

    Raises:
        ValueError: ``config`` states a growth that would change epochs that have begun; or the data cannot be read.
        OSError: the data cannot be opened.
    """
    identity, stated = manifest.get("identity", {}), config.data.growth
    known = tuple(GrowthConfig.model_validate(one) for one in identity.get(GROWTH_KEY, ()))
    if FINGERPRINT_KEY in allowed and FINGERPRINT_KEY in identity and not isinstance(config.data.train, tuple):
        index = open_train(config.data)
        if (before := before_growth(index, identity[FINGERPRINT_KEY])) is not None:
            found = next_growth(known, before, manifest["step"], config.train.global_batch_size)
            if stated and stated != known:
                _check_stated(stated, known, found, manifest["step"])
                found = stated
            return _with(config, found), (GROWTH_KEY,) if found != known else ()
    return (config if stated else _with(config, known)), ()


def before_growth(index: ShardIndex, fingerprint: str) -> tuple[int, int] | None:
    """Shards and samples of a set when it had this fingerprint, if it has grown since; None if it was another set."""
    plain = fingerprints_on_the_way(index.shards)
    of_levels = [(one, fingerprints_on_the_way(one.shards)) for one in index.levels]
    for number in range(len(index.shards) - 1, 0, -1):
        end = int(index.first_ids[number])

        def own(one: ShardIndex, was: list[str], number: int = number, end: int = end) -> str:
            return without_samples(was[number - 1], one.excluded[one.excluded < end].tolist())

        made_from = plain[number - 1]
        levels = [
            (Level(one.level.pixels, made_from), own(one, was)) for one, was in of_levels if one.level is not None
        ]
        if with_levels(own(index, plain), levels) == fingerprint:
            return number, end - int((index.excluded < end).sum())
    return None


def next_growth(known: Growth, before: tuple[int, int], step: int, global_batch_size: int) -> Growth:
    """How the set has grown, where all there is counts from the first epoch on that has not begun before a step."""
    lengths = EpochLengths(steps_per_epoch(before[1], global_batch_size), earlier_epochs(known, global_batch_size))
    epoch, step_of_epoch = lengths.split(step)
    first = epoch + (step_of_epoch > 0)
    if known and known[-1].before_epoch >= first:  # it has grown twice before that epoch
        return known
    return (*known, GrowthConfig(before_epoch=first, shards=before[0], samples=before[1]))


def _check_stated(stated: Growth, known: Growth, found: Growth, step: int) -> None:
    last, needed = stated[-1], found[-1]
    is_later = last.before_epoch >= needed.before_epoch
    if stated[:-1] != found[:-1] or not is_later or (last.shards, last.samples) != (needed.shards, needed.samples):
        asked, least = ([one.model_dump() for one in growth] for growth in (stated, found))
        raise ValueError(
            f"data.growth is {asked}, but the checkpoint at step {step} has begun epochs over what was there: it is "
            f"{least}, or the last before_epoch is a later one; leave it out to have that"
        )


def _with(config: RunConfig, growth: Growth) -> RunConfig:
    """Raises ValueError where the configuration allows of no growth."""
    if growth == config.data.growth:
        return config
    values = config.model_dump(mode="json")
    values["data"]["growth"] = [one.model_dump() for one in growth]
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        why = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise ValueError(f"the training set has grown since the checkpoint: {why}") from None
