import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.shared.bad_images import LATER_DAMAGE, SOUND_OUTSIDE
from benchmarks.shared.photographs import photograph
from pipeline.shards.image_header import image_size, is_parsable, why_undecodable, why_unparsable


def encode(width: int, height: int, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(photograph(0, width, height)).save(sink, format, **options)
    return sink.getvalue()


WHOLE_JPEG, WHOLE_PNG = encode(50, 40, "JPEG"), encode(50, 40, "PNG")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF"])
@pytest.mark.parametrize(("width", "height"), [(1, 300), (260, 2), (65, 97)])
def test_the_size_is_the_one_that_the_image_states(format: str, width: int, height: int) -> None:
    assert image_size(memoryview(encode(width, height, format))) == (height, width)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"exif": b"Exif\0\0" + bytes(5000), "icc_profile": bytes(70_000)},
        {"comment": b"\xff\xc0\0\x11\x08"},
        {"quality": 1, "subsampling": 2, "restart_marker_rows": 1},
    ],
    ids=["progressive", "long segments", "a comment like a frame", "restart markers"],
)
def test_a_jpegs_size_is_found_behind_its_other_segments(options: dict[str, object]) -> None:
    assert image_size(memoryview(encode(50, 40, "JPEG", **options))) == (40, 50)


def test_fill_bytes_between_segments_are_passed_over() -> None:
    data = encode(50, 40, "JPEG")
    assert image_size(memoryview(data[:2] + b"\xff\xff\xff" + data[2:])) == (40, 50)


@given(length=st.integers(0, 700))
def test_an_image_cut_anywhere_states_its_size_or_none(length: int) -> None:
    for data in (WHOLE_JPEG, WHOLE_PNG):
        assert image_size(memoryview(data[:length])) in ((40, 50), None)


@given(
    data=st.binary(max_size=100), start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM"])
)
def test_no_bytes_whatever_make_it_fail(data: bytes, start: bytes) -> None:
    image_size(memoryview(start + data))
    assert why_undecodable(memoryview(start + data))


def test_arrays_are_read_without_a_copy() -> None:
    assert image_size(np.frombuffer(encode(50, 40, "JPEG"), np.uint8).data) == (40, 50)


def test_the_reason_is_one_line() -> None:
    for data in [*SOUND_OUTSIDE.values(), *LATER_DAMAGE.values(), b""]:
        reason = why_undecodable(memoryview(data))
        assert reason
        assert "\n" not in reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_whole_images_of_all_formats_that_the_loader_takes_are_parsable(format: str) -> None:
    assert is_parsable(memoryview(encode(65, 97, format)))
    if format == "JPEG":
        assert is_parsable(memoryview(encode(65, 97, format, progressive=True, icc_profile=bytes(70_000))))


@pytest.mark.parametrize("format", ["GIF", "AVIF", "TIFF", "PPM", "JPEG2000"])
def test_other_formats_are_not_parsable_though_the_decoder_knows_some(format: str) -> None:
    data = memoryview(encode(65, 97, format))
    assert not is_parsable(data)
    assert why_unparsable(data) == f"the loader does not decode this kind of {format} image"


def test_images_whose_parts_lead_nowhere_are_not_parsable() -> None:
    broken_table = bytearray(WHOLE_JPEG)
    broken_table[200:400] = bytes(200)
    for data in (bytes(broken_table), WHOLE_JPEG[:300], WHOLE_PNG[:-3], WHOLE_PNG[:100], b"", b"\xff\xd8", b"garbage"):
        assert not is_parsable(memoryview(data))
