"""What the loader's own decoder makes of images: in a process of its own, because some files end DALI with a signal.

Whoever asks writes batches of image files to the process and reads a verdict for each. Where the process dies, the
batch is halved until the image that did it is found.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from pipeline.installed import dali_build
from pipeline.shards.image_header import image_size, why_undecodable, why_unparsable
from tools.shards.decoding.glimpse import Glimpse, differ, glimpse_of_pixels

if TYPE_CHECKING:
    from pipeline.graph.image_decoder import ImageDecoder

BATCH_SIZE = 64
BATCH_BYTES = 32_000_000
_BATCH_PIXELS = 2**25  # decoded at a time: 100 MB
_ROOT = Path(__file__).parents[3]
# How a decoder dies of an image; other signals come from outside.
_DEADLY = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_NUM_SHOWN = 2000  # characters of what a process that ends with an error has said


@dataclass(frozen=True)
class Verdict:
    """On one image. reason: why the loader cannot use it, empty if it can; then size (height, width) and glimpse."""

    reason: str
    size: tuple[int, int] = (0, 0)
    glimpse: Glimpse | None = None

    def reason_against(self, expected: Glimpse | None) -> str:
        """The reason, or that the picture is another one than Pillow's, where a glimpse of that is known."""
        if self.reason or expected is None or self.glimpse is None:
            return self.reason
        return "the loader would show another picture than Pillow" if differ(self.glimpse, expected) else ""


class LoaderDecoder:
    """Owns the process: it starts with the first question and again after it has died. For one thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process where there is none, without waiting for it. Raises what ``dali_build`` raises."""
        if self._process is not None:
            return
        dali_build()  # its process could say no more than that an import failed
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (open for as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            process_group=0,  # Ctrl-C is for us
        )

    def look_at(self, images: Sequence[bytes]) -> list[Verdict]:
        """A verdict on each image file.

        Raises:
            OSError: the decoder cannot work, whatever the images: too little memory, or ended from outside.
        """
        if not images:
            return []
        killer = self._ask(images)
        if isinstance(killer, list):
            return killer
        if len(images) == 1:
            return [Verdict(f"the loader's decoder dies of it ({killer.name})")]
        middle = len(images) // 2
        return self.look_at(images[:middle]) + self.look_at(images[middle:])

    def _ask(self, images: Sequence[bytes]) -> list[Verdict] | signal.Signals:
        """The verdicts, or the signal that has ended the process."""
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(list(images), process.stdin)
            process.stdin.flush()
            answer: list[Verdict] | str = pickle.load(process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            return self._cause_of_death(process)
        if isinstance(answer, str):
            raise OSError(f"the loader's decoder cannot work here: {answer}")
        return answer

    def _cause_of_death(self, process: subprocess.Popen[bytes]) -> signal.Signals:
        code = process.wait()
        said = self._said
        assert said is not None
        said.seek(max(0, said.seek(0, os.SEEK_END) - _NUM_SHOWN))
        words = said.read().decode(errors="replace").strip()
        self.close()
        if code >= 0:
            raise OSError(f"the loader's decoder cannot work here: its process ended with code {code}: {words}")
        ended_by = signal.Signals(-code)
        if ended_by not in _DEADLY:
            raise OSError(
                f"the loader's decoder was ended from outside ({ended_by.name}), as happens when memory runs out"
            )
        return ended_by

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._said is not None:
            self._said.close()
        self._process = self._said = None


@cache
def loader_decoder() -> LoaderDecoder:
    """The one of this process."""
    decoder = LoaderDecoder()
    atexit.register(decoder.close)
    return decoder


def batches_of(lengths: Sequence[int]) -> list[range]:
    """Which files, by their lengths in bytes, are looked at together."""
    batches, start, size = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and (place - start == BATCH_SIZE or size + length > BATCH_BYTES):
            batches.append(range(start, place))
            start, size = place, 0
        size += length
    return [*batches, range(start, len(lengths))] if len(lengths) else []


def _judge(images: Sequence[bytes], decoder: "ImageDecoder") -> list[Verdict]:
    """The process's work. Raises RuntimeError where the decoder fails for another reason than an image."""
    verdicts: dict[int, Verdict] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for place, image in enumerate(images):
        size, fault = image_size(memoryview(image)), why_unparsable(memoryview(image))
        if fault is None and size is not None:
            sizes[place] = size
        else:
            verdicts[place] = Verdict(fault or why_undecodable(memoryview(image)))
    waiting = list(sizes)
    while waiting:
        count, pixels = 1, sizes[waiting[0]][0] * sizes[waiting[0]][1]
        while count < len(waiting) and pixels <= _BATCH_PIXELS:
            height, width = sizes[waiting[count]]
            count, pixels = count + 1, pixels + height * width
        batch, waiting = waiting[:count], waiting[count:]
        verdicts |= _judge_decoded({place: images[place] for place in batch}, sizes, decoder)
    return [verdicts[place] for place in range(len(images))]


def _judge_decoded(
    images: dict[int, bytes], sizes: dict[int, tuple[int, int]], decoder: "ImageDecoder"
) -> dict[int, Verdict]:
    """Verdicts on images that lead the decoder to their data, by their places."""
    from pipeline.graph.image_decoder import check_is_about_images, failing_rows

    places, verdicts = list(images), dict[int, Verdict]()

    def runs(start: int, stop: int) -> bool:
        some = places[start:stop]
        try:
            decoded = decoder.whole([np.frombuffer(images[place], np.uint8) for place in some])
        except RuntimeError as error:
            check_is_about_images(error)
            return False
        for place, pixels in zip(some, decoded, strict=True):
            verdicts[place] = _verdict_on(pixels, sizes[place])
        return True

    for row in failing_rows(runs, 0, len(places)):
        verdicts[places[row]] = Verdict(why_undecodable(memoryview(images[places[row]])))
    return verdicts


def _verdict_on(pixels: np.ndarray, stated: tuple[int, int]) -> Verdict:
    height, width = pixels.shape[:2]
    if (height, width) != stated:
        return Verdict(f"is {width}x{height} pixels to the loader's decoder, but {stated[1]}x{stated[0]} by its header")
    return Verdict("", stated, glimpse_of_pixels(pixels))


def serve() -> None:
    """The process's program: answer until whoever asks has gone."""
    from pipeline.graph.image_decoder import ImageDecoder

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print are kept from our answers
    decoder = ImageDecoder(BATCH_SIZE, num_threads=1)
    while True:
        try:
            images = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: list[Verdict] | str = _judge(images, decoder)
        except RuntimeError as error:
            answer = " ".join(str(error).split())
        pickle.dump(answer, answers)
        answers.flush()
