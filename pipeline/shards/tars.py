"""One pass over the headers of a WebDataset tar: where each sample's image lies, its label and its size.

A member's name is only ever a key; nothing is unpacked, and no name becomes a path.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp")
LABEL_EXTENSIONS = ("cls", "json")

# The key is the name up to the first dot of its base name, as the webdataset library has it. Hidden files
# (``._a.jpg``, which macOS adds) and names without an extension have none.
_MEMBER_NAME = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]+)$", re.DOTALL)
_MAX_LABEL = 2**31 - 1
# Nearly every image states its size this early; where it does not, the whole image is read.
_IMAGE_HEAD_BYTES = 16 * 1024
_APART = (
    "; members of this key lie apart in the tar, and those of a sample have to lie next to each other: write it anew, "
    "such as with tar --sort=name"
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one sample (or, with an empty key, with a whole shard)."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key!r}: {self.reason}" if self.key else f"{self.shard}: {self.reason}"


class Row(NamedTuple):
    """One sample. offset, length: the image's bytes within the tar; width, height: its pixels as stored."""

    offset: int
    length: int
    label: int
    width: int
    height: int
    key: str
    extension: str


@dataclass(frozen=True)
class Scan:
    """The samples of one tar in their order, its faults, and a SHA-256 over all that the rows rest on."""

    rows: list[Row]
    faults: list[Fault]
    digest: str
    samples: list["Sample"]


class Members(NamedTuple):
    """Where the image and the label of each sample are, if not in the usual members. All in lower case.

    label_field: of the json member; by default the label is in ``cls``, else in the json member's field ``label``.
    image_member: the image's extension, all behind the first dot of its name, such as ``input.jpg``; by default any of
    ``IMAGE_EXTENSIONS``.
    label_member: the label's, such as ``cls.txt``; one that ends in ``json`` holds it in a field, others as a number.
    """

    label_field: str | None = None
    image_member: str | None = None
    label_member: str | None = None


class Sample(NamedTuple):
    """All members that share a key: (extension in lower case, header) in the tar's order."""

    key: str
    members: list[tuple[str, tarfile.TarInfo]]


def scan_shard(
    path: Path, label_field: str | None = None, image_member: str | None = None, label_member: str | None = None
) -> Scan:
    """Reads the tar's headers, its label members and the heads of its images.

    label_field, image_member, label_member: where images and labels are (see ``Members``). A tar without any file has
    no samples and no fault. The digest covers every header block, every label member and every image's size,
    so that a label rewritten in place changes it. Faults are collected, not raised; OSError is raised.
    """
    sha = hashlib.sha256()
    members = Members(label_field, image_member, label_member)
    rows: list[Row] = []
    faults: list[Fault] = []
    with open(path, "rb") as file:
        samples, num_files, reason = _read_headers(file, sha)
        if reason:
            faults.append(Fault(path.name, "", reason))
        places = Counter(sample.key for sample in samples)
        for sample in samples:
            try:
                row = _read_sample(file, sample, members, sha)
            except ValueError as error:
                apart = _APART if places[sample.key] > 1 else ""
                faults.append(Fault(path.name, sample.key, f"{error}{apart}"))
            else:
                rows.append(row)
    if num_files and not samples and not reason:
        faults.append(Fault(path.name, "", f"holds no samples, but {num_files} file(s) whose names have no extension"))
    return Scan(rows, faults, sha.hexdigest(), samples)


def _read_headers(file: io.BufferedReader, sha: "hashlib._Hash") -> tuple[list[Sample], int, str]:
    """Members grouped by consecutive key, the number of files, and the reason why the tar is broken, if it is."""
    samples: list[Sample] = []
    num_files = 0
    try:
        # ":" refuses compressed tars, in which no offset would mean anything.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                sha.update(os.pread(file.fileno(), member.offset_data - member.offset, member.offset))
                num_files += not member.isdir()
                match = _MEMBER_NAME.match(member.name)
                if member.isdir() or match is None:
                    continue
                key, extension = match.group(1), match.group(2).lower()
                if not samples or samples[-1].key != key:
                    samples.append(Sample(key, []))
                samples[-1].members.append((extension, member))
            reason = _check_end(file, tar.offset)
    except tarfile.TarError as error:
        reason = f"not a whole, uncompressed tar: {error}"
    return samples, num_files, reason


def _check_end(file: io.BufferedReader, end: int) -> str:
    """tarfile stops without a word at a damaged header, so look at what stopped it. Returns what is wrong."""
    file.seek(end)
    block = file.read(512)
    if len(block) < 512:
        return "truncated: the mark that ends a tar is missing"
    if any(block):
        return f"damaged header at byte {end}"
    while rest := file.read(1 << 20):
        if any(rest):
            return f"data follows the mark that ends the tar at byte {end} (two tars put together?)"
    return ""


def _read_sample(file: io.BufferedReader, sample: Sample, wanted: Members, sha: "hashlib._Hash") -> Row:
    extension, image = _find_image(sample, wanted.image_member)
    labels = _find_labels(sample, wanted.label_member)
    if not _is_utf8(sample.key + extension):
        raise ValueError("its name is not UTF-8")
    for member in (image, *labels.values()):
        if not member.isreg() or member.issparse():
            raise ValueError(f"{member.name} is a link or a sparse file, not plain data")
    for name in sorted(labels):
        sha.update(_read_member(file, labels[name]))
    label = _read_label(file, labels, wanted)
    width, height = _read_image_size(file, image)
    sha.update(f"{label} {width}x{height}\n".encode())
    return Row(image.offset_data, image.size, label, width, height, sample.key, extension)


def _find_image(sample: Sample, image_member: str | None) -> tuple[str, tarfile.TarInfo]:
    usual = IMAGE_EXTENSIONS if image_member is None else (image_member,)
    images = [(extension, member) for extension, member in sample.members if extension in usual]
    if len(images) > 1:
        names = ", ".join(member.name for _, member in images)
        raise ValueError(f"{len(images)} images ({names}), not one; where each is another, --image-member says which")
    if not images:
        raise ValueError(f"no image ({', '.join(usual)}); {_what_there_is(sample, IMAGE_EXTENSIONS, '--image-member')}")
    return images[0]


def _find_labels(sample: Sample, label_member: str | None) -> dict[str, tarfile.TarInfo]:
    """Extension -> member, of those that may hold the label; at least one."""
    usual = LABEL_EXTENSIONS if label_member is None else (label_member,)
    found = [(extension, member) for extension, member in sample.members if extension in usual]
    labels = dict(found)
    if len(labels) < len(found):
        names = ", ".join(member.name for _, member in found)
        raise ValueError(f"more than one member for one label ({names}), of which only one can be right")
    if not labels:
        there = _what_there_is(sample, (*LABEL_EXTENSIONS, "txt"), "--label-member")
        raise ValueError(f"no label ({' or '.join(usual)}); {there}")
    return labels


def _what_there_is(sample: Sample, kinds: tuple[str, ...], option: str) -> str:
    """A sample's members, and what to do where one of them is what was looked for, under a longer extension."""
    there = f"its members are: {', '.join(extension for extension, _ in sample.members)}"
    longer = [extension for extension, _ in sample.members if extension.rpartition(".")[2] in kinds]
    if not longer:
        return there
    return (
        f"{there}; a key ends at the first dot of the name, and all behind it is the extension: where that of each "
        f"sample is {longer[0]}, say {option} {longer[0]}; where dots belong to the keys, write the tars with others"
    )


def _is_utf8(name: str) -> bool:
    """tarfile keeps bytes that are not UTF-8 as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _read_member(file: io.BufferedReader, member: tarfile.TarInfo, limit: int | None = None) -> bytes:
    return os.pread(file.fileno(), member.size if limit is None else min(limit, member.size), member.offset_data)


def _read_label(file: io.BufferedReader, labels: dict[str, tarfile.TarInfo], wanted: Members) -> int:
    held = wanted.label_member or ("cls" if "cls" in labels and wanted.label_field is None else "json")
    if held not in labels:
        raise ValueError("no json member")
    if held.rpartition(".")[2] == "json":
        label = _read_field(_read_member(file, labels[held]), wanted.label_field or "label")
    else:
        text = _read_member(file, labels[held]).strip()
        if not re.fullmatch(rb"[+-]?[0-9]+", text):
            raise ValueError(f"its {held} member holds {text[:40]!r}, not an integer")
        label = int(text[:20])
    if not 0 <= label <= _MAX_LABEL:
        raise ValueError(f"its label is {label}; labels count from 0 up to {_MAX_LABEL}")
    return label


def _read_field(content: bytes, name: str) -> int:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise ValueError(f"its json member cannot be read ({error})") from None
    if not isinstance(fields, dict) or name not in fields:
        held = ", ".join(sorted(fields)) if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"its json member has no field '{name}', but: {held}; name one with --label-field")
    label = fields[name]
    if not isinstance(label, int) or isinstance(label, bool):
        raise ValueError(f"field '{name}' of its json member is {label!r}, not an integer")
    return label


def _read_image_size(file: io.BufferedReader, member: tarfile.TarInfo) -> tuple[int, int]:
    head = _read_member(file, member, _IMAGE_HEAD_BYTES)
    try:
        return Image.open(io.BytesIO(head)).size
    except Exception:
        if len(head) == member.size:
            raise ValueError("the image's header cannot be read: no known image format, or damaged") from None
    try:
        return Image.open(io.BytesIO(_read_member(file, member))).size
    except Exception as error:
        # Pillow's decoders raise whatever they meet (OSError, SyntaxError, struct.error, ...).
        raise ValueError(f"the image's header cannot be read ({type(error).__name__}: {error})") from None
