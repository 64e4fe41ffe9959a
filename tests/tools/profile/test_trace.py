"""What is made of torch's profiler."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType

from tools.profile.trace import communication_s, exposed, merged, write_traces

spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda one: (one[0], one[0] + one[1])), max_size=8
)


def covered(intervals: list[tuple[int, int]]) -> set[int]:
    """The whole units from n to n + 1 that lie within any of the intervals."""
    return set(itertools.chain.from_iterable(range(start, end) for start, end in intervals))


@given(spans, spans)
def test_what_is_exposed_is_covered_once_and_hidden_by_nothing(
    intervals: list[tuple[int, int]], hidden_by: list[tuple[int, int]]
) -> None:
    assert exposed(intervals, hidden_by) == len(covered(intervals) - covered(hidden_by))


@given(spans)
def test_merged_intervals_cover_the_same_and_do_not_touch(intervals: list[tuple[int, int]]) -> None:
    found = merged(intervals)
    assert covered(found) == covered(intervals)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(found))


def event(name: str, start: float, end: float, kind: DeviceType = DeviceType.CPU, annotation: bool = False) -> Any:
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=span, device_type=kind, is_user_annotation=annotation)


def recorded(*events: Any) -> Any:
    return SimpleNamespace(events=lambda: list(events))


def test_on_a_cpu_exchange_is_gloos_where_torch_does_not_compute() -> None:
    seen = recorded(
        event("backward", 0, 9e6, annotation=True),
        event("aten::mm", 0, 2e6),
        event("c10d::allreduce_", 1e6, 5e6),
        event("gloo:all_reduce", 1e6, 5e6),
        event("gloo:all_gather", 7e6, 8e6),
    )
    assert communication_s(seen, torch.device("cpu")) == pytest.approx(3 + 1)


def test_on_a_gpu_exchange_is_nccls_where_no_other_kernel_runs() -> None:
    gpu = DeviceType.CUDA
    seen = recorded(
        event("nccl:all_reduce", 0, 9e6, gpu, annotation=True),
        event("backward", 0, 9e6, gpu, annotation=True),
        event("aten::mm", 0, 9e6),
        event("ncclDevKernel_AllReduce_Sum_f32", 1e6, 5e6, gpu),
        event("gemm", 0, 3e6, gpu),
    )
    assert communication_s(seen, torch.device("cuda")) == pytest.approx(2)


def test_traces_of_one_process_are_put_at_their_own_times(tmp_path: Path) -> None:
    first = {"baseTimeNanoseconds": 1000, "traceEvents": [{"name": "a", "ts": 1.0}, {"name": "process_name"}]}
    later = {"baseTimeNanoseconds": 3000, "traceEvents": [{"name": "b", "ts": 1.0}]}
    write_traces([first, later], tmp_path / "trace.json")
    written = json.loads((tmp_path / "trace.json").read_text())
    assert written["traceEvents"] == [{"name": "a", "ts": 1.0}, {"name": "process_name"}, {"name": "b", "ts": 3.0}]
