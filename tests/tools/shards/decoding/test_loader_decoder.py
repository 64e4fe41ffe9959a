"""What the loader's decoder says of images, from its own process, and what becomes of images that end the process."""

import signal
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from benchmarks.damaged_images.files import FILES, HEIGHT, WIDTH
from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import image_bytes
from pipeline.graph.image_decoder import ImageDecoder
from tools.shards.decoding.glimpse import glimpse_of_pixels
from tools.shards.decoding.loader_decoder import BATCH_BYTES, LoaderDecoder, Verdict, _judge, batches_of
from tools.shards.images import pixels_of

# What the loader cannot use of what is sound to others, and why.
REFUSED = {
    "JPEG, CMYK without Adobe marker": "its negative",
    "JPEG, lossless": "does not decode this kind of JPEG image",
    "WebP, lossless, with EXIF": "odd length",
    "BMP, 16 bits": "which the decoder does not know",
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[LoaderDecoder]:
    one = LoaderDecoder()
    yield one
    one.close()


def test_every_kind_of_file_is_judged_and_shows_what_pillow_shows(decoder: LoaderDecoder) -> None:
    images = {name: make(4) for name, make in FILES.items()}
    for (name, image), verdict in zip(images.items(), decoder.look_at(list(images.values())), strict=True):
        pixels = pixels_of(image)
        if verdict.reason:
            assert REFUSED[name] in verdict.reason, name
        else:
            assert (verdict.size, verdict.reason_against(glimpse_of_pixels(pixels))) == ((HEIGHT, WIDTH), ""), name
            assert "another picture" in verdict.reason_against(glimpse_of_pixels(255 - pixels))


def test_damaged_images_are_named_and_those_beside_them_are_sound(decoder: LoaderDecoder) -> None:
    sound, png = jpeg_bytes(0, 40, 30), FILES["PNG"](0)
    damaged = png[:60] + bytes([png[60] ^ 255]) + png[61:]
    images = [sound, damaged, b"", sound, b"nothing", sound[:400], image_bytes(0, 20, 10, "TIFF"), sound]
    verdicts = decoder.look_at(images)
    assert [bool(verdict.reason) for verdict in verdicts] == [False, True, True, False, True, True, True, False]
    assert verdicts[6].reason == "the loader does not decode this kind of TIFF image"
    assert all("\n" not in verdict.reason for verdict in verdicts)


def test_an_image_that_ends_the_process_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(self: LoaderDecoder, images: Sequence[bytes]) -> list[Verdict] | signal.Signals:
        asked.append(len(images))
        return signal.SIGSEGV if b"deadly" in images else [Verdict("", (1, 1)) for _ in images]

    monkeypatch.setattr(LoaderDecoder, "_ask", ask)
    images = [b"%d" % i for i in range(64)]
    images[13] = images[50] = b"deadly"
    verdicts = LoaderDecoder().look_at(images)
    assert [place for place, verdict in enumerate(verdicts) if verdict.reason] == [13, 50]
    assert verdicts[13].reason == "the loader's decoder dies of it (SIGSEGV)"
    assert len(asked) < 30


@pytest.mark.parametrize("ended_by", [signal.SIGSEGV, signal.SIGKILL])
def test_the_process_starts_again_after_a_signal_and_one_from_outside_is_no_images_fault(
    ended_by: signal.Signals,
) -> None:
    one, image = LoaderDecoder(), jpeg_bytes(0, 40, 30)
    one.start()
    assert one._process is not None
    one._process.send_signal(ended_by)
    one._process.wait()
    if ended_by == signal.SIGKILL:
        with pytest.raises(OSError, match=r"ended from outside .SIGKILL., as happens when memory runs out"):
            one.look_at([image])
    else:
        assert one._ask([image]) == ended_by
    assert [verdict.reason for verdict in one.look_at([image])] == [""]
    one.close()


class NoMemory(ImageDecoder):
    def whole(self, encoded: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("Error in CPU operator, encountered:\n\nstd::bad_alloc")


def test_a_machine_that_fails_is_no_images_fault() -> None:
    with pytest.raises(RuntimeError, match="bad_alloc"):
        _judge([jpeg_bytes(0, 40, 30)], NoMemory(8, 1))


def test_without_dali_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.installed.DALI_BUILDS", {})
    with pytest.raises(ValueError, match="NVIDIA DALI is not installed"):
        LoaderDecoder().look_at([b"an image"])


def test_batches_are_full_by_number_or_by_bytes() -> None:
    assert batches_of([]) == []
    assert batches_of([10] * 130) == [range(64), range(64, 128), range(128, 130)]
    big = BATCH_BYTES // 2 + 1
    assert batches_of([big, big, 1, 3 * big, 1]) == [range(1), range(1, 3), range(3, 4), range(4, 5)]
