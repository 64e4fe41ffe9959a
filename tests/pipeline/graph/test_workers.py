"""Worker threads of a graph, and the cores that they keep to."""

import os
import time

import numpy as np
from nvidia.dali import fn, pipeline_def
from nvidia.dali.pipeline import Pipeline

from pipeline.graph.workers import kept_to_cores, workers


def built(num_threads: int) -> tuple[Pipeline, set[int]]:
    """A pipeline that has run, and the threads that it has started."""

    @pipeline_def(batch_size=2, num_threads=num_threads, device_id=None, exec_dynamic=True)
    def graph() -> object:
        return fn.external_source(source=lambda: [np.zeros(1, np.uint8)] * 2, batch=True)

    before, pipeline = set(workers()), graph()
    with kept_to_cores(num_threads):
        pipeline.build()
    pipeline.run()
    end = time.monotonic() + 10  # they name themselves a moment after they have been started
    while len(workers().keys() - before) < num_threads and time.monotonic() < end:
        time.sleep(0.01)
    return pipeline, workers().keys() - before


def test_as_many_workers_as_cores_keep_to_one_core_each() -> None:
    cores = os.sched_getaffinity(0)
    pipeline, started = built(len(cores))
    assert len(started) == len(cores)
    assert sorted(tuple(os.sched_getaffinity(thread)) for thread in started) == sorted((core,) for core in cores)
    del pipeline


def test_another_number_of_workers_may_go_to_any_core() -> None:
    cores = os.sched_getaffinity(0)
    pipeline, started = built(len(cores) + 1)
    assert len(started) == len(cores) + 1
    assert all(os.sched_getaffinity(thread) == cores for thread in started)
    del pipeline


def test_workers_from_before_are_left_alone() -> None:
    cores = os.sched_getaffinity(0)
    first, started = built(len(cores) + 1)
    second, _ = built(len(cores))
    assert all(os.sched_getaffinity(thread) == cores for thread in started)
    del first, second
