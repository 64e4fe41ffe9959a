"""A profile's measurements in their order: every stage warmed up, then all of them in turn, several times over."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from engine.prepare import Prepared
from engine.ranks.world import World
from pipeline.batch import Batch
from pipeline.plan.schedule import PatchSchedule, Stage
from tools.profile.bench import Bench
from tools.profile.loader import End, augments
from tools.profile.result import LoaderParts, Profile, Rate, StageProfile
from tools.schedule.preview import flops_per_image

_MIN_STEPS = 2


def stages_to_profile(schedule: PatchSchedule, *, full_patches: bool) -> list[tuple[Stage, float]]:
    """The schedule's stages with their shares of the run, fewest patches first, and full patches of data's sizes last.

    Args:
        full_patches: add those, with share 0, where the schedule has none.
    """
    full, stages = schedule.full_stage(), [(stage.stage, stage.share) for stage in schedule.stages()]

    def is_full(stage: Stage) -> bool:
        return replace(stage, keep_rate=full.keep_rate) == full

    last = [one for one in stages if is_full(one[0])] or ([(full, 0.0)] if full_patches else [])
    return [one for one in stages if not is_full(one[0])] + last


@dataclass
class Repeats:
    """What was measured of a stage, repeat by repeat. Rates are images per second over all ranks."""

    loader: list[float] = field(default_factory=list)
    loader_thread_us: list[float] = field(default_factory=list)  # processor time for an image, as the next one
    behind_decode_ms: list[float] = field(default_factory=list)
    bytes_read: list[float] = field(default_factory=list)  # for an image, as the next one
    pages_read: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    parts_ms: list[dict[str, float]] = field(default_factory=list)
    communication_ms: list[float] = field(default_factory=list)
    selected_ms: list[float] = field(default_factory=list)  # of a loader that ends with the selection
    wait_shares: list[float] = field(default_factory=list)
    idle_shares: list[float] = field(default_factory=list)
    peak_device_memory_bytes: int | None = None

    def part_ms(self, name: str) -> float | None:
        """The median of a part of the training step; None where steps were not measured."""
        return statistics.median(parts[name] for parts in self.parts_ms) if self.parts_ms else None


@dataclass(frozen=True)
class Measured:
    """One stage, how many steps each of its repeats takes, and what they found."""

    stage: Stage
    share: float
    batch: Batch
    loader_steps: int
    train_steps: int
    both_steps: int
    repeats: Repeats = field(default_factory=Repeats)

    def profile(self, flops: int, unselected: "Unselected | None", global_batch_size: int) -> StageProfile:
        """The stage's line of the profile."""
        found = self.repeats
        return StageProfile(
            keep_rate=self.stage.keep_rate,
            num_kept=self.stage.num_kept,
            image_size=self.stage.image_size,
            patch_size=self.stage.patch_size,
            share=self.share,
            loader=Rate.of(found.loader),
            step=Rate.of(found.step),
            end_to_end=Rate.of(found.both),
            forward_ms=found.part_ms("forward"),
            backward_ms=found.part_ms("backward"),
            optimizer_ms=found.part_ms("optimizer"),
            communication_ms=_median(found.communication_ms),
            loader_parts=None if unselected is None else self._loader_parts(unselected, global_batch_size),
            loader_wait_share=_median(found.wait_shares),
            device_idle_share=_median(found.idle_shares),
            bytes_per_image=self.batch.num_bytes / self.batch.num_images,
            flops_per_image=flops,
            peak_device_memory_bytes=found.peak_device_memory_bytes,
            loader_thread_us_per_image=_median(found.loader_thread_us),
            behind_decode_cpu_ms_per_image=_median(found.behind_decode_ms),
            bytes_read_per_image=_median(found.bytes_read),
            pages_read_per_image=_median(found.pages_read),
        )

    def _loader_parts(self, unselected: "Unselected", global_batch_size: int) -> LoaderParts:
        whole_ms = 1000 * global_batch_size / statistics.median(self.repeats.loader)
        return LoaderParts.of(*unselected.ends_ms(), statistics.median(self.repeats.selected_ms), whole_ms)


class Unselected:
    """Loaders that end before the selection, and how many steps each is timed for. See ``unselected_by_stage``."""

    def __init__(self, bench: Bench, stage: Stage, seconds: float) -> None:
        self._bench, self._stage = bench, stage
        ends: list[End] = ["splice", "decode"]
        if bench.splices:
            ends.insert(0, "read")
        if augments(bench.loader_settings):
            ends.append("augment")
        self._steps = {end: _steps_in(seconds, bench.time_loader_until(end, stage, _MIN_STEPS)) for end in ends}
        self._repeats_ms: dict[End, list[float]] = {end: [] for end in ends}

    def measure(self) -> None:
        """One repeat of each."""
        for end, repeats_ms in self._repeats_ms.items():
            num_steps = self._steps[end]
            repeats_ms.append(1000 * self._bench.time_loader_until(end, self._stage, num_steps) / num_steps)

    def ends_ms(self) -> tuple[float, float, float, float]:
        """Milliseconds of a step when the loader ends with reading, splicing, decoding and augmenting; medians."""
        found = {end: statistics.median(repeats_ms) for end, repeats_ms in self._repeats_ms.items()}
        read, decode = found.get("read", found["splice"]), found["decode"]
        return read, found["splice"], decode, found.get("augment", decode)


def unselected_by_stage(bench: Bench, stages: list[Stage], seconds: float) -> dict[Stage, Unselected]:
    """One for each stage where what is read and decoded depends on what is kept; else one that serves all of them."""
    if bench.splices and not bench.loader_settings.needs_crops:
        return {stage: Unselected(bench, stage, seconds) for stage in stages}
    return dict.fromkeys(stages, Unselected(bench, stages[-1], seconds))


def profile_run(
    prepared: Prepared,
    world: World,
    *,
    loads: bool,
    trains: bool,
    seconds: float,
    repeats: int,
    progress: Callable[[str], None],
    traces: bool = False,
) -> tuple[Profile, list[dict[str, Any]]]:
    """Profile every stage of a run. Collective.

    Args:
        loads, trains: which sides to measure alone; they are measured together where both are.
        seconds: that one measurement should take, about.
        progress: told after each stage of each round, of which there is one more than ``repeats``, to warm up.
        traces: record a few more steps of each stage in the end.

    Returns:
        The profile, and the first rank's Chrome traces, one a stage.
    """
    config, schedule = prepared.config, prepared.plan.schedule
    stages = stages_to_profile(schedule, full_patches=config.task != "pretrain")
    bench = Bench(prepared, world, trains=trains)
    found = []
    for stage, share in stages:
        found.append(_warmed_up(bench, stage, share, trains=trains, seconds=seconds))
        progress(f"warmed up keep rate {stage.keep_rate:.4g}")
    unselected = unselected_by_stage(bench, [stage for stage, _ in stages], seconds) if loads else {}
    for repeat in range(repeats):
        for different in dict.fromkeys(unselected.values()):
            different.measure()
        for measured in found:
            _measure(bench, measured, config.train.global_batch_size, loads=loads, trains=trains)
            progress(f"repeat {repeat + 1}/{repeats}, keep rate {measured.stage.keep_rate:.4g}")
    traced = [bench.trace(one.stage, None if loads else one.batch) for one in found] if traces else []
    flops = flops_per_image(config, [stage.num_kept for stage, _ in stages], [stage.patch_size for stage, _ in stages])
    profile = Profile(
        name=config.name,
        num_patches=schedule.num_patches,
        world_size=world.size,
        stages=[
            measured.profile(one, unselected.get(measured.stage), config.train.global_batch_size)
            for measured, one in zip(found, flops, strict=True)
        ],
        matmul_flops_per_s=bench.matmul_flops_per_s() if trains else None,
        peak_memory_bytes=bench.peak_memory_bytes(),
    )
    return profile, traced


def _warmed_up(bench: Bench, stage: Stage, share: float, *, trains: bool, seconds: float) -> Measured:
    """A stage whose shapes have all been seen once, with the numbers of steps that take about ``seconds``."""
    loaded = bench.time_loader(stage, _MIN_STEPS)
    loader_s, batch = loaded.elapsed_s, loaded.last
    step_s = 0.0
    if trains:
        bench.time_steps(batch, _MIN_STEPS)
        step_s, _ = bench.time_steps(batch, _MIN_STEPS)

    loader_steps, train_steps = _steps_in(seconds, loader_s), _steps_in(seconds, step_s)
    return Measured(stage, share, batch, loader_steps, train_steps, _steps_in(seconds, max(loader_s, step_s)))


def _steps_in(seconds: float, taken_s: float) -> int:
    """How many steps take so long, if ``_MIN_STEPS`` of them took ``taken_s``."""
    return max(_MIN_STEPS, math.ceil(seconds * _MIN_STEPS / taken_s)) if taken_s else _MIN_STEPS


def _median(repeats: list[float]) -> float | None:
    """None where nothing was measured."""
    return statistics.median(repeats) if repeats else None


def _measure(bench: Bench, measured: Measured, global_batch_size: int, *, loads: bool, trains: bool) -> None:
    found = measured.repeats
    if loads:
        loaded = bench.time_loader(measured.stage, measured.loader_steps)
        decode_ms = bench.decode_cpu_ms_per_image(measured.stage, measured.loader_steps)
        found.loader.append(measured.loader_steps * global_batch_size / loaded.elapsed_s)
        found.loader_thread_us.append(loaded.thread_us_per_image)
        found.bytes_read.append(loaded.bytes_read_per_image)
        found.pages_read.append(loaded.pages_read_per_image)
        found.behind_decode_ms.append(loaded.cpu_ms_per_image - decode_ms)
        selected_s = bench.time_loader_until("select", measured.stage, measured.loader_steps)
        found.selected_ms.append(1000 * selected_s / measured.loader_steps)
    if trains:
        bench.peak_device_memory_bytes()  # from here on
        step_s, parts_s = bench.time_steps(measured.batch, measured.train_steps)
        found.step.append(measured.train_steps * global_batch_size / step_s)
        found.parts_ms.append({part: 1000 * taken_s / measured.train_steps for part, taken_s in parts_s.items()})
        found.peak_device_memory_bytes = bench.peak_device_memory_bytes()
        found.communication_ms.append(1000 * bench.time_communication(measured.batch))
    if loads and trains:
        both_s, wait_share, idle_share = bench.time_both(measured.stage, measured.both_steps)
        found.both.append(measured.both_steps * global_batch_size / both_s)
        found.wait_shares.append(wait_share)
        found.idle_shares.append(idle_share)
