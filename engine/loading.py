"""A run's loaders, set up as its configuration says, for training and for validation."""

from collections.abc import Callable, Iterator

from engine.config import RunConfig
from engine.ranks.world import World
from pipeline.graph.decoded import DECODER
from pipeline.graph.pixel_cache import open_cache
from pipeline.loader import PatchLoader
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.snapshots import SnapshotBoard
from pipeline.shards.index import ShardIndex
from pipeline.storage.errors import StoreGoneError


def open_loader(
    planner: TrainPlanner | ValidationPlanner,
    plans: Iterator[StepPlan],
    config: RunConfig,
    world: World,
    *,
    batch_size: int,
    snapshots: SnapshotBoard | None = None,
    reserve: int = 0,
    on_store_lost: Callable[[StoreGoneError], object] = lambda error: None,
) -> PatchLoader:
    """This rank's batches of some plans. ``data.cache`` serves training alone.

    Args:
        batch_size: rows of the largest of the plans.
        snapshots, reserve, on_store_lost: as for ``PatchLoader``.
    """
    data, index = config.data, planner.samples
    assert isinstance(index, ShardIndex)
    return PatchLoader(
        planner,
        plans,
        batch_size=batch_size,
        num_threads=data.num_threads or world.loader_threads,
        device_id=world.local_rank if data.device == "gpu" else None,
        device=world.device,
        targets=config.task == "pretrain",
        snapshots=snapshots,
        cache=open_cache(data.cache, index, world.rank, DECODER) if planner.training else None,
        world_size=world.size,
        reserve=reserve,
        on_store_lost=on_store_lost,
    )
