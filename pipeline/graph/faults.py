"""Errors of a graph that no image explains, told as what they are."""

import re
from collections.abc import Callable
from typing import Literal

from pipeline.graph.image_decoder import is_machines_fault, words_of
from pipeline.graph.settings import GraphSettings

Memory = Literal["gpu", "host"]

# Whose memory an error speaks of, in the words of DALI, PyTorch, CUDA and its libraries.
_WORDS: dict[Memory, re.Pattern[str]] = {
    "gpu": re.compile(
        r"CUDA allocation failed|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA out of memory"
        r"|CUDA error: out of memory|bytes on device|ALLOC_FAILED|ALLOCATOR_FAILURE|MEMORY_ALLOCATION_FAILURE"
    ),
    "host": re.compile(r"bad_alloc|bytes on host|DefaultCPUAllocator|Cannot allocate memory"),
}
_WHOSE: dict[Memory, str] = {"gpu": "the GPU's memory", "host": "this host's memory"}
_REMEDIES: dict[Memory, str] = {
    "gpu": "set data.device: cpu, which leaves all of it to the model (with --allow-change data.device where a run "
    "goes on), or lower train.micro_batch_size (or train.tokens_per_micro_batch; in validation eval.micro_batch_size) "
    "or data.prefetch_batches",
    "host": "lower data.prefetch_batches, train.micro_batch_size (in validation eval.micro_batch_size), "
    "data.num_threads, data.cache.max_bytes or data.echo_gap, or start fewer ranks on this host",
}


class LoaderMemoryError(RuntimeError):
    """The loader ran out of memory; the message is one line for people."""


def memory_that_ran_out(error: BaseException, *, on_gpu: bool) -> Memory | None:
    """Whose memory an error tells to be too small; None where it tells of something else.

    Args:
        on_gpu: whether it comes from work on a GPU, whose memory is meant where the words do not say.
    """
    text = str(error)
    for whose, words in _WORDS.items():
        if words.search(text):
            return whose
    if isinstance(error, MemoryError):
        return "host"
    if "out of memory" in text:
        return "gpu" if on_gpu else "host"
    return None


def check_images_explain(error: RuntimeError, settings: GraphSettings, found_bad: Callable[[], bool]) -> None:
    """Whether images explain an error of a graph; it is raised as what it is where they do not.

    On the processor DALI's words tell a machine that fails. Those of a GPU name CUDA where a file is damaged, too, so
    there the images are always looked at, by the processor.

    Args:
        found_bad: looks at the images, and says whether any was found bad that was not known before.

    Raises:
        LoaderMemoryError: from the error, where memory was too small.
        RuntimeError: else the error itself, with a note where a GPU is concerned.
    """
    on_gpu = settings.device_id is not None
    if (on_gpu or not is_machines_fault(error)) and found_bad():
        return
    whose = memory_that_ran_out(error, on_gpu=on_gpu)
    if whose is not None:
        raise LoaderMemoryError(
            f"the loader ran out of {_WHOSE[whose]} ({words_of(error)}): {_REMEDIES[whose]}"
        ) from error
    if on_gpu:
        error.add_note(
            f"The loader's graph failed on GPU {settings.device_id}. All images of its batches can be decoded on the "
            "processor, so none of them is called bad for it; data.device: cpu decodes them there."
        )
    raise error
