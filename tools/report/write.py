"""From a report to its files: the page, and its pictures where they are asked for."""

from pathlib import Path

from pipeline.files import write_atomically
from tools.report.page import Report, render


def write_report(report: Report, out: Path, png_dir: Path | None) -> str:
    """Write the page, and its pictures into ``png_dir`` if there is one.

    Returns:
        The findings, what was written, and what the page does not show, for people.

    Raises:
        OSError: a file that cannot be written.
    """
    page = render(report)
    write_atomically(out, page, sync=True)
    lines = [*report.findings, "", f"{out}: {len(page.encode()) / 1e6:.1f} MB"]
    if png_dir is not None:
        png_dir.mkdir(parents=True, exist_ok=True)
        for picture in report.pictures:
            (png_dir / f"{picture.name}.png").write_bytes(picture.png())
        lines.append(f"{png_dir}: {len(report.pictures)} PNG files")
    return "\n".join([*lines, *(f"not shown: {line}" for line in report.absent)])
