"""What the loader makes of damaged images, held against what an ordinary decoder makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.damaged_jpegs.data_damage import unit_ends
from benchmarks.damaged_jpegs.kinds import NUM_SUBSTITUTES, DamagedShards
from pipeline.config import DataConfig
from pipeline.graph.bad_samples import BadRow, RowReader
from pipeline.graph.graph import build_graph
from pipeline.graph.inputs import SourceArrays, row_sizes, source_arrays
from pipeline.graph.settings import GraphSettings
from pipeline.jpeg.addressable import units_of
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage, num_kept_at
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.reader import SampleReader

KEEP_RATES = (0.2, 0.6, 1.0)

# What may come of a row, where its units are read alone and where its file is read in the ordinary way.
BOTH_SOUND = "as if it were sound, in both ways"
AS_ORDINARY = "as the ordinary way gives it"
SOUND_ALONE = "as if it were sound, where the ordinary way shows the damage"
SOUND_NOT_BAD = "as if it were sound, where it is bad in the ordinary way"
MENDED = "as if the units with broken markers were sound"
MENDED_NOT_BAD = "as if the units with broken markers were sound, where it is bad in the ordinary way"
BOTH_BAD = "bad in both ways"
# What may not.
BAD_ALONE = "bad, where the ordinary way gives pixels"
WRONG = "wrong pixels"
UNNAMED = "bad, and the sample or the cause is not named"
CRASH = "a crash"
FINDINGS = (BAD_ALONE, WRONG, UNNAMED, CRASH)
_MOST_BATCHES = 1_000_000


class WholeFiles(GraphSettings):
    """The ordinary way: every image is read and decoded as a file."""

    @property
    def splices(self) -> bool:
        return False


@dataclass(frozen=True)
class SoundSubstitutes:
    """A planner whose substitutes are those of the last shard, which are sound."""

    planner: TrainPlanner

    def substitute(self, sample_id: int, attempt: int) -> int:
        return self.planner.samples.num_samples - 1 - (sample_id + attempt) % NUM_SUBSTITUTES

    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan:
        return self.planner.with_samples(plan, ids)


@dataclass(frozen=True)
class Found:
    """A row's outcome, and the causes that are told of it where it is bad."""

    outcome: str
    causes: tuple[str, ...] = ()


class Judge:
    """Carries plans out in both ways and compares. For one thread.

    Args:
        reader: of the shards; closed by whoever opened it.
        batch_size: the most rows at a time. image_size, patch_size: in pixels.
    """

    def __init__(
        self,
        shards: DamagedShards,
        reader: SampleReader,
        *,
        batch_size: int,
        image_size: int = 224,
        patch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._shards, self._files, folder = shards, reader, shards.index.folder
        data = DataConfig(
            train=folder, val=folder, num_classes=len(shards.sound), image_size=image_size, patch_size=patch_size
        )
        selection = SelectionConfig(rule="random")
        schedule = PatchSchedule(ScheduleConfig(), data.num_patches, _MOST_BATCHES, 1, batch_size, seed)
        self._planner = TrainPlanner(shards.index, data, selection, schedule, batch_size, seed)
        self._whole = WholeFiles(data, selection, "resized", batch_size, 1)
        self._units = GraphSettings(data, selection, "resized", batch_size, 1)
        self._readers = {
            settings: RowReader(shards.index, reader, settings, SoundSubstitutes(self._planner))
            for settings in (self._units, self._whole)
        }

    def plan(self, number: int, ids: Sequence[int]) -> StepPlan:
        """The batch of this number with these samples; keep rates take turns."""
        keep_rate = KEEP_RATES[number % len(KEEP_RATES)]
        stage = Stage(keep_rate, num_kept_at(keep_rate, self._planner.data.num_patches))
        plan = self._planner.plan(number).rows(0, len(ids))
        return replace(self._planner.with_samples(plan, np.array(ids)), stage=stage)

    def judge(self, plan: StepPlan) -> list[Found]:
        """What comes of each row."""
        patches, bad = self._carry_out(plan, self._units)
        ordinary, ordinary_bad = self._carry_out(plan, self._whole)
        sound = self._decode(plan, [self._shards.sound[i] for i in plan.sample_ids])
        assert sound is not None
        found = []
        for row in range(plan.num_rows):
            told = tuple(one.cause for one in (bad.get(row), ordinary_bad.get(row)) if one is not None)
            if not all(self._is_named(one) for one in (bad.get(row), ordinary_bad.get(row)) if one is not None):
                outcome = UNNAMED
            elif row in bad:
                outcome = BOTH_BAD if row in ordinary_bad else BAD_ALONE
            else:
                expected = None if row in ordinary_bad else ordinary[row]
                outcome = self._of_pixels(plan.rows(row, row + 1), patches[row], expected, sound[row])
            found.append(Found(outcome, told))
        return found

    def _of_pixels(self, row: StepPlan, patches: np.ndarray, ordinary: np.ndarray | None, sound: np.ndarray) -> str:
        """The outcome of a row that gives pixels; ordinary: None where it is bad in that way."""
        is_sound = np.array_equal(patches, sound)
        if ordinary is not None and np.array_equal(patches, ordinary):
            return BOTH_SOUND if is_sound else AS_ORDINARY
        if is_sound:
            return SOUND_NOT_BAD if ordinary is None else SOUND_ALONE
        sample_id = int(row.sample_ids[0])
        mended = self._decode(row, [self.mended(sample_id)])
        if mended is not None and np.array_equal(patches, mended[0]):
            return MENDED_NOT_BAD if ordinary is None else MENDED
        return WRONG

    def mended(self, sample_id: int) -> bytes:
        """A damaged file with those of its units sound that their markers show to be damaged."""
        sound = self._shards.sound[sample_id]
        units = units_of(sound)
        [stored] = self._files.read(np.array([sample_id]))
        mended = bytearray(stored.tobytes())
        for number, (end, length) in enumerate(zip(unit_ends(units).tolist(), units.lengths.flat, strict=True)):
            place = slice(end - int(length), end)
            if not has_own_marker_alone(mended[place], number, number == units.lengths.size - 1):
                mended[place] = sound[place]
        return bytes(mended)

    def _is_named(self, bad: BadRow) -> bool:
        index = self._shards.index
        shard, key = index.shards[index.shard[bad.sample_id]].name, index.key(bad.sample_id)
        return bool(bad.cause.strip()) and (bad.shard, bad.key) == (shard, key) and "\n" not in bad.cause

    def _carry_out(self, plan: StepPlan, settings: GraphSettings) -> tuple[np.ndarray, dict[int, BadRow]]:
        """Patches [B, K, P*P*3] as the loader makes them, and the bad rows."""
        reader = self._readers[settings]
        while True:
            rows = reader.read(plan)
            try:
                patches = run_graph(reader.arrays(rows), settings)
            except RuntimeError:
                if not reader.examine(rows):
                    raise
                continue
            return patches, {one.row - plan.first_row: one for one in rows.bad}

    def _decode(self, plan: StepPlan, files: list[bytes]) -> np.ndarray | None:
        """Patches of other files under the same plan, in the ordinary way; None where one cannot be decoded."""
        images = [np.frombuffer(file, np.uint8) for file in files]
        try:
            sizes = row_sizes(plan, self._shards.index)
            return run_graph(source_arrays(plan, images, self._whole, sizes), self._whole)
        except RuntimeError:
            return None


def run_graph(arrays: SourceArrays, settings: GraphSettings) -> np.ndarray:
    """The patches [B, K, P*P*3] that a graph of its own makes of its inputs.

    Raises:
        RuntimeError: it cannot.
    """

    def source(number: int) -> SourceArrays:
        if number > 0:
            raise StopIteration
        return arrays

    patches, _ = build_graph(source, settings).run()
    return np.array(patches.as_tensor())


def has_own_marker_alone(unit: bytes | bytearray, number: int, is_last: bool) -> bool:
    """Whether a unit ends with the marker of its number and holds no other."""
    marker = 0xD9 if is_last else 0xD0 | (number & 7)
    data = np.frombuffer(bytes(unit), np.uint8)
    num_markers = int(np.count_nonzero((data[:-1] == 0xFF) & (data[1:] != 0)))
    return num_markers == 1 and bytes(unit[-2:]) == bytes([0xFF, marker])
