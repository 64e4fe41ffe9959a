"""The ``.idx`` file beside a tar, for programs that read the shards with DALI's own ``fn.readers.webdataset``."""

from pathlib import Path

from pipeline.files import write_atomically
from pipeline.shards.tars import Scan


def write_dali_index(tar: Path, scan: Scan) -> None:
    """Writes the ``.idx`` of a scanned tar: train-000000.idx for train-000000.tar."""
    write_atomically(tar.with_suffix(".idx"), render_dali_index(scan), sync=False)


def render_dali_index(scan: Scan) -> str:
    """Version and number of samples, then a line per sample: extension, byte offset, size, name of each member.

    Names with white space cannot be written so; then the format's older version is used, which has no names.
    """
    with_names = not any(_has_space(member.name) for sample in scan.samples for _, member in sample.members)
    lines = [f"{'v1.2' if with_names else 'v1.1'} {len(scan.samples)}"]
    for sample in scan.samples:
        fields: list[str] = []
        for extension, member in sample.members:
            if member.isreg() and not _has_space(extension):
                fields += [extension, str(member.offset_data), str(member.size)]
                fields += [member.name] if with_names else []
        lines.append(" ".join(fields))
    return "\n".join(lines) + "\n"


def _has_space(text: str) -> bool:
    return any(character.isspace() for character in text)
