"""The compiled look at headers says what the one in Python says, on whole files and on damaged ones."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.damaged_images.files import FILES
from benchmarks.shared.bad_images import HEIGHT, LATER_DAMAGE, SOUND_OUTSIDE, WIDTH
from benchmarks.shared.photographs import photograph
from pipeline.shards.image_header import image_size, is_parsable
from pipeline.shards.kernels.headers import is_surely


def encode(format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(photograph(0, WIDTH, HEIGHT)).save(sink, format, **options)
    return sink.getvalue()


JPEG, PNG = encode("JPEG"), encode("PNG")
LONG_JPEG = encode("JPEG", progressive=True, exif=b"Exif\0\0" + bytes(500), comment=b"\xff\xc0\0\x11\x08")
OTHERS = [encode(format) for format in ("WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF", "AVIF")]
# Bytes that lead a reader of headers astray: markers, fill bytes, lengths of nothing and of more than there is.
ODD_BYTES = [0, 1, 2, 8, 0x0A, 0x40, 0x7F, 0x80, 0xC0, 0xC4, 0xC8, 0xCC, 0xCF, 0xD8, 0xD9, 0xDA, 0xE1, 0xEE, 0xFE, 0xFF]


def expected(data: bytes, height: int, width: int) -> bool:
    is_known = data[:2] == b"\xff\xd8" or data[:8] == b"\x89PNG\r\n\x1a\n"
    view = memoryview(data)
    return is_known and image_size(view) == (height, width) and is_parsable(view)


def agree(data: bytes, height: int = HEIGHT, width: int = WIDTH) -> bool:
    """Whether both say the same, of the size that is looked for and of the one that the file states; what they say."""
    encoded = np.frombuffer(data, np.uint8)
    stated = image_size(memoryview(data))
    if stated is not None:
        assert is_surely(encoded, *stated) == expected(data, *stated)
        assert not is_surely(encoded, stated[0] + 1, stated[1])
        assert not is_surely(encoded, stated[0], stated[1] + 1)
    assert is_surely(encoded, height, width) == expected(data, height, width)
    return bool(is_surely(encoded, height, width))


@pytest.mark.parametrize("data", [JPEG, PNG, LONG_JPEG], ids=["jpeg", "png", "long jpeg"])
def test_whole_jpeg_and_png_are_surely_what_they_are(data: bytes) -> None:
    assert agree(data)


@pytest.mark.parametrize("name", list(FILES))
def test_of_every_kind_of_jpeg_and_png_but_cmyk_the_compiled_look_is_as_sure(name: str) -> None:
    data = FILES[name](0)
    stated = image_size(memoryview(data))
    assert stated is not None
    is_cmyk = "CMYK" in name or "YCCK" in name
    assert is_surely(np.frombuffer(data, np.uint8), *stated) == (not is_cmyk and expected(data, *stated))


@pytest.mark.parametrize("data", OTHERS)
def test_other_formats_are_left_to_who_knows_them(data: bytes) -> None:
    assert not agree(data)


@pytest.mark.parametrize("name", [*SOUND_OUTSIDE, *LATER_DAMAGE])
def test_broken_files_of_every_kind_are_judged_alike(name: str) -> None:
    agree((SOUND_OUTSIDE | LATER_DAMAGE)[name])


@pytest.mark.parametrize("data", [JPEG, PNG, LONG_JPEG], ids=["jpeg", "png", "long jpeg"])
def test_files_cut_anywhere_are_judged_alike(data: bytes) -> None:
    for length in [*range(min(len(data), 1500)), *range(len(data) - 30, len(data))]:
        agree(data[:length])


@settings(max_examples=3000, deadline=None)
@given(
    data=st.sampled_from([JPEG, PNG, LONG_JPEG]),
    changes=st.lists(
        st.tuples(st.integers(0, 700), st.one_of(st.sampled_from(ODD_BYTES), st.integers(0, 255))), max_size=12
    ),
    length=st.integers(0, 5000),
)
@example(data=JPEG, changes=[(0, 0)], length=5000)
def test_files_damaged_at_random_are_judged_alike(data: bytes, changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    agree(bytes(damaged[: max(length, 30)]))


@settings(max_examples=3000, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"]),
    rest=st.lists(st.one_of(st.sampled_from(ODD_BYTES), st.integers(0, 255)), max_size=80),
)
def test_bytes_of_any_kind_are_judged_alike(start: bytes, rest: list[int]) -> None:
    agree(start + bytes(rest))
