"""Which files the decoder is kept away from, by their kind."""

import io
import struct

import pytest
from PIL import Image

from benchmarks.damaged_images.files import FILES, WIDTH, without_segment
from benchmarks.shared.photographs import photograph
from pipeline.shards.containers import NEGATIVE, container_fault

REFUSED = {"JPEG, CMYK without Adobe marker", "BMP, 16 bits"}


def fault_of(data: bytes) -> str | None:
    return container_fault(memoryview(data))


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def lossless_webp_with_exif(seed: int) -> bytes:
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x010E] = "holiday"
    Image.fromarray(photograph(seed, 20, 16)).save(sink, "WEBP", lossless=True, exif=exif)
    return sink.getvalue()


@pytest.mark.parametrize("name", [name for name in FILES if name not in REFUSED])
def test_sound_files_of_every_kind_pass(name: str) -> None:
    for seed in range(3):
        fault = fault_of(FILES[name](seed))
        assert fault is None or (name == "WebP, lossless, with EXIF" and "odd length" in fault)


def test_a_lossless_webp_with_exif_passes_unless_a_chunk_in_front_of_it_is_padded() -> None:
    seen = set()
    for seed in range(12):
        data = lossless_webp_with_exif(seed)
        is_odd = bool(data[34] & 1)  # the length of the chunk behind VP8X
        assert fault_of(data) == ("a WebP with a chunk of odd length in front of its EXIF data" if is_odd else None)
        seen.add(is_odd)
    assert seen == {False, True}


def test_a_webp_that_promises_exif_data_and_has_none_is_refused() -> None:
    data = FILES["WebP with EXIF"](0)
    assert fault_of(data[: data.rindex(b"EXIF")]) == "a WebP without the EXIF data that its header tells of"


def test_cmyk_without_adobe_marker_is_refused_because_its_negative_would_be_shown() -> None:
    assert fault_of(FILES["JPEG, CMYK without Adobe marker"](0)) == NEGATIVE
    assert fault_of(without_segment(FILES["JPEG, YCCK"](0), 0xEE)) == NEGATIVE
    assert fault_of(FILES["JPEG, CMYK"](0).replace(b"Adobe", b"adobe")) == NEGATIVE


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda data: changed(data, 2, b"\xff\0"), "a JPEG with the bytes FF 00 where a marker belongs"),
        (lambda data: changed(data, data.index(b"\xff\xc0") + 9, b"\2"), "a JPEG of 2 components, where"),
        (lambda data: changed(data, data.index(b"\xff\xdb"), b"\xff\xc1"), "a JPEG with several frames"),
        (lambda data: data[:2] + b"\xff\xe1\0\7Exif\0\0" + data[2:], "a JPEG whose EXIF segment is too short"),
        (lambda data: changed(data, 4, b"\xff\xff"), "a JPEG whose segments do not lead to its data"),
        (lambda data: without_segment(data, 0xC0), "a JPEG whose segments do not lead to its data"),
        (lambda data: data[:300], "a JPEG whose segments do not lead to its data"),
    ],
)
def test_jpegs_that_lead_the_decoder_astray_are_refused(damage: object, fault: str) -> None:
    assert callable(damage)
    found = fault_of(damage(FILES["JPEG"](0)))
    assert found is not None
    assert found.startswith(fault)


def test_a_short_segment_that_is_no_exif_data_does_no_harm() -> None:
    data = FILES["JPEG"](0)
    assert fault_of(data[:2] + b"\xff\xe1\0\4ab\xff\xee\0\2" + data[2:]) is None


def test_pngs_that_lead_the_decoder_astray_are_refused() -> None:
    data = FILES["PNG"](0)
    for damaged, fault in (
        (data[:-12], "a PNG whose chunks do not lead to its end: truncated or damaged"),
        (changed(data, 33, b"\x7f"), "a PNG whose chunks do not lead to its end: truncated or damaged"),
        (changed(data, 24, b"\4"), "a PNG of colour type 2 with 4 bits, which there is not"),
        (changed(data, 25, b"\5"), "a PNG of colour type 5 with 8 bits, which there is not"),
        (changed(data, 12, b"IDAT"), "a PNG that does not begin with its header"),
        (data[:20], "a PNG that does not begin with its header"),
    ):
        assert fault_of(damaged) == fault


def test_bmps_that_the_decoder_makes_nothing_of_are_refused() -> None:
    data = FILES["BMP, 24 bits"](0)
    for damaged, fault in (
        (FILES["BMP, 16 bits"](0), "a BMP of 16 bits and compression 0, which the decoder does not know"),
        (changed(data, 30, b"\2"), "a BMP of 24 bits and compression 2, which the decoder does not know"),
        (changed(data, 14, b"\x10"), "a BMP with a header of 16 bytes, which there is not"),
        (changed(data, 18, struct.pack("<i", WIDTH + 4)), "a BMP whose header does not lead to its pixels"),
        (data[:-1], "a BMP whose header does not lead to its pixels"),
        (data[:30], "a BMP whose header does not lead to its pixels"),
    ):
        found = fault_of(damaged)
        assert found is not None
        assert found.startswith(fault)
    downwards = changed(data, 22, struct.pack("<i", -struct.unpack("<i", data[22:26])[0]))
    assert fault_of(downwards) is None


def test_other_formats_are_told_as_such() -> None:
    for data in (b"", b"II*\0", b"\0\0\0\x0cjP  ", b"P6 1 1 255 abc", b"GIF89a"):
        assert fault_of(data) == "neither JPEG, PNG, WebP nor BMP, which the loader takes"
