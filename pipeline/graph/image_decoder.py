"""Image files to pixels by DALI alone, with none of the graph behind it; and which of them it cannot decode.

Light to import, because the shard tools start processes that do nothing else.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from pipeline.graph import decoding
from pipeline.graph.workers import kept_to_cores

# What DALI says where the machine fails, and no image is to blame.
_NO_IMAGES_FAULT = re.compile(r"out of memory|CUDA|cudaError|bad_alloc|(Can't|Cannot) allocate")
_MESSAGE = "encountered:"  # behind the operator and where it was defined


class ImageDecoder:
    """Image files to pixels on DALI's own threads, a batch at a time.

    Args:
        batch_size: the most images at a time.
    """

    def __init__(self, batch_size: int, num_threads: int) -> None:
        self._batch_size, self._num_threads = batch_size, num_threads
        self._graphs: dict[bool, Pipeline] = {}

    def whole(self, encoded: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole images, uint8 [H, W, 3] each, in one piece of memory that is freed with the last of them.

        Raises:
            RuntimeError: one of them cannot be decoded.
        """
        return self._run(False, {"encoded": encoded})

    def window(self, encoded: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The window of an image between two corners (row, column), int32 [2] each, as ``whole``."""
        [pixels] = self._run(True, {"encoded": [encoded], "start": [start], "shape": [stop - start]})
        return pixels

    def _run(self, windowed: bool, inputs: dict[str, Sequence[np.ndarray]]) -> list[np.ndarray]:
        if not len(inputs["encoded"]):
            return []
        graph = self._graphs.pop(windowed, None) or self._build(windowed)
        for name, arrays in inputs.items():
            graph.feed_input(name, list(arrays))
        [images] = graph.run()  # a graph that has failed here is given up
        self._graphs[windowed] = graph
        # No copies: DALI's dynamic executor leaves its outputs to whoever holds them.
        return [np.asarray(images[i]) for i in range(len(inputs["encoded"]))]

    def _build(self, windowed: bool) -> Pipeline:
        @pipeline_def(
            batch_size=self._batch_size,
            num_threads=self._num_threads,
            device_id=None,
            exec_dynamic=True,
            prefetch_queue_depth=1,
        )
        def graph() -> object:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            if not windowed:
                return decoding.decode_whole(encoded, "cpu")
            corners = [fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("start", "shape")]
            return decoding.decode_window(encoded, *corners)

        pipeline = graph()
        with kept_to_cores(self._num_threads):
            pipeline.build()
        return pipeline


def words_of(error: BaseException) -> str:
    """What an error of DALI's says is wrong, in one line: without the operator, and where that was defined."""
    return " ".join(str(error).rpartition(_MESSAGE)[2].split())


def is_machines_fault(error: RuntimeError) -> bool:
    """Whether an error of a graph on the processor tells of a machine that fails, and of no image.

    Of a graph on a GPU nothing follows from its words: they name CUDA where a file is damaged, too.
    """
    return _NO_IMAGES_FAULT.search(words_of(error)) is not None


def check_is_about_images(error: RuntimeError) -> None:
    """Raise an error of DALI's again where the machine fails: no image must be called bad for it."""
    if is_machines_fault(error):
        raise error


def failing_rows(runs: Callable[[int, int], bool], start: int, stop: int) -> list[int]:
    """The rows from ``start`` to ``stop - 1`` on which ``runs(start, stop)`` fails, by halving."""
    if runs(start, stop):
        return []
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    return failing_rows(runs, start, middle) + failing_rows(runs, middle, stop)
