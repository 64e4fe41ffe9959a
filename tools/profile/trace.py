"""What torch's profiler sees of training steps: the time that ranks spend in exchange, and a timeline to look at."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Interval = tuple[float, float]  # start and end

_KIND = {"cpu": DeviceType.CPU, "cuda": DeviceType.CUDA}
# How the profiler names collectives: gloo's as they run on its own threads, NCCL's by their kernels.
_COLLECTIVE = {"cpu": "gloo:", "cuda": "nccl"}


@contextmanager
def profiled(device: torch.device, *, all_threads: bool = False) -> Iterator[profile]:
    """Record all that runs meanwhile.

    Args:
        all_threads: those of the loader too, not only the one that trains and those that work for it.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library speaks of its own start and stop
    config = _ExperimentalConfig(profile_all_threads=all_threads)
    with profile(activities=activities, experimental_config=config, acc_events=True) as recorded:
        yield recorded


def communication_s(recorded: profile, device: torch.device) -> float:
    """Seconds in which a collective was under way and no computation hid it.

    Waiting for the rank that comes last to a collective is in it. Computation is any other kernel on a GPU, and any
    operator of torch on a CPU.
    """
    found = [event for event in recorded.events() or [] if event.device_type == _KIND[device.type]]
    spans: dict[bool, list[Interval]] = {True: [], False: []}
    for event in found:
        is_collective = event.name.lower().startswith(_COLLECTIVE[device.type])
        computes = event.name.startswith("aten::") if device.type == "cpu" else not is_collective
        if (is_collective or computes) and not (device.type == "cuda" and event.is_user_annotation):
            spans[is_collective].append((event.time_range.start, event.time_range.end))
    return exposed(spans[True], spans[False]) / 1e6


def exposed(intervals: Iterable[Interval], hidden_by: Iterable[Interval]) -> float:
    """The length of what at least one interval covers and none of ``hidden_by`` does."""
    hidden = merged(hidden_by)
    total, first = 0.0, 0
    for start, end in merged(intervals):
        while first < len(hidden) and hidden[first][1] <= start:
            first += 1
        total += end - start
        for hidden_start, hidden_end in hidden[first:]:
            if hidden_start >= end:
                break
            total -= min(end, hidden_end) - max(start, hidden_start)
    return total


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same cover by intervals that do not touch, in order."""
    result: list[Interval] = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def chrome_trace(recorded: profile) -> dict[str, Any]:
    """What was recorded, in the format that chrome://tracing and ui.perfetto.dev read."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return json.loads(path.read_text())


def write_traces(traces: Sequence[dict[str, Any]], path: Path) -> None:
    """Several traces of one process as one file, each at its own time.

    Raises:
        OSError: the file cannot be written.
    """
    base_ns = int(traces[0].get("baseTimeNanoseconds", 0))
    events: list[dict[str, Any]] = []
    for trace in traces:
        later_us = (int(trace.get("baseTimeNanoseconds", 0)) - base_ns) / 1000
        events += [
            {**event, "ts": event["ts"] + later_us} if "ts" in event else event for event in trace["traceEvents"]
        ]
    path.write_text(json.dumps({**traces[0], "traceEvents": events}))
