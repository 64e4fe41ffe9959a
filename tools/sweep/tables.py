"""The results of a sweep for people and for other programs: a table, ``sweep.csv``, ``sweep.png``."""

import csv
import io
from pathlib import Path
from typing import Any

from tools.sweep.labels import with_sizes

_COLUMNS = (
    *("run", "rule", "keep_rate", "num_kept", "top1", "top5", "loss", "num_samples", "bad_samples"),
    *("images_per_s", "wall_s", "forward_flops_per_image", "bytes_per_image", "ranks"),
    *("image_size", "patch_size", "val"),
)


def describe(lines: list[dict[str, Any]]) -> str:
    """The results as a table for people."""
    lines = with_sizes(lines)
    widths = {key: max(len(key), *(len(line[key]) for line in lines)) for key in ("run", "rule")}
    head = f"{'run':{widths['run']}}  {'rule':{widths['rule']}}"
    rows = [
        f"{head}  {'keep rate':>9}  {'patches':>7}  {'top-1':>7}  {'top-5':>7}  {'loss':>7}  {'images/s':>8}  "
        f"{'MFLOPs/image':>12}  {'bytes/image':>11}"
    ]
    for line in lines:
        rows.append(
            f"{line['run']:{widths['run']}}  {line['rule']:{widths['rule']}}  {line['keep_rate']:>9.3g}  "
            f"{line['num_kept']:>7}  {line['top1']:>7.2%}  {line['top5']:>7.2%}  {line['loss']:>7.4f}  "
            f"{line['images_per_s']:>8.0f}  {line['forward_flops_per_image'] / 1e6:>12,.1f}  "
            f"{line['bytes_per_image']:>11,}"
        )
    shared = {line["keep_rate"]: line["same_as"] for line in lines if "same_as" in line}
    if shared:
        rates = ", ".join(f"{rate:g}" for rate in shared)
        rows += [
            "",
            f"keep rate {rates}: every patch is kept, so that all rules are the same; measured once, by "
            f"{', '.join(dict.fromkeys(shared.values()))} (same_as in sweep.jsonl)",
        ]
    bad = sum(line["bad_samples"] for line in lines)
    if bad:
        rows += ["", f"{bad} times an image could not be decoded and was left out (bad_samples in sweep.jsonl)"]
    return "\n".join(rows)


def write_files(lines: list[dict[str, Any]], folder: Path) -> None:
    """``sweep.csv`` and ``sweep.png``."""
    from pipeline.files import write_atomically  # here, as both are slow to import
    from tools.sweep.plot import draw

    sink = io.StringIO()
    writer = csv.DictWriter(sink, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(folder / "sweep.csv", sink.getvalue(), sync=True)
    draw(lines, folder / "sweep.png")
