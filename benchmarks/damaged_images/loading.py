"""What the loader makes of samples: read, decoded and cropped by its own reader and graph, with whole images seen."""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.damaged_images.shards import NUM_SOUND
from benchmarks.damaged_jpegs.outcomes import run_graph
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.bad_samples import RowReader
from pipeline.graph.settings import GraphSettings
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader

BATCH_SIZE = 32
_NUM_THREADS = 4  # DALI dies of a file while other threads are at work
_MOST_BATCHES = 1_000_000
# Any other error comes from the parsers, of which DALI may die: no file may lead there.
_DECODER_FAILED = "Failed to decode"


@dataclass(frozen=True)
class WholeImages:
    """A planner whose crops are whole images, and whose substitutes are the last samples, which are sound."""

    planner: TrainPlanner

    def substitute(self, sample_id: int, attempt: int) -> int:
        return len(self.planner.samples.label) - 1 - (sample_id + attempt) % NUM_SOUND

    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan:
        plan, samples = self.planner.with_samples(plan, ids), self.planner.samples
        sizes = np.stack([samples.height[ids], samples.width[ids]], axis=1).astype(plan.crops.dtype)
        return replace(plan, crops=np.concatenate([np.zeros_like(sizes), sizes], axis=1))


class LoaderJudge:
    """Carries out plans in both of the ways in which the loader decodes on a CPU: windows, and whole images."""

    def __init__(self, index: ShardIndex, reader: SampleReader) -> None:
        selection, batch_size = SelectionConfig(rule="random"), min(BATCH_SIZE, index.num_samples)
        self._ways = []
        for crop in ("resized", "pad"):
            data = DataConfig(
                train=index.folder,
                val=index.folder,
                num_classes=len(index.label),
                image_size=32,
                patch_size=8,
                augment=AugmentConfig(crop=crop),
            )
            schedule = PatchSchedule(ScheduleConfig(), data.num_patches, _MOST_BATCHES, 1, batch_size, 0)
            planner = WholeImages(TrainPlanner(index, data, selection, schedule, batch_size, 0))
            settings = GraphSettings(data, selection, crop, batch_size, _NUM_THREADS)
            self._ways.append((planner, RowReader(index, reader, settings, planner), settings))

    def judge(self, ids: list[int]) -> list[str]:
        """The cause why each sample cannot be used, empty where it can, in both ways."""
        causes = [""] * len(ids)
        for planner, reader, settings in self._ways:
            plan = planner.with_samples(planner.planner.plan(0).rows(0, len(ids)), np.array(ids))
            while True:
                rows = reader.read(plan)
                try:
                    run_graph(reader.arrays(rows), settings)
                    break
                except RuntimeError as error:
                    if _DECODER_FAILED not in str(error) or not reader.examine(rows):
                        raise
            for one in rows.bad:
                causes[one.row - plan.first_row] = one.cause
        return causes
