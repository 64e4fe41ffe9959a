"""What decoding takes when no more than the needed units of a JPEG are decoded: with holes, or packed together.

    python -m benchmarks.real_photographs --out data/real-photographs --num 1200
    python -m tools.shards readdress data/real-photographs --out data/real-photographs-addressable
    python -m benchmarks.holes

The same random resized crops of the same images, decoded by DALI on one thread, in turn and several times over:
processor time an image. Holes are what the loader makes. Packed are the units under the patches of each row of patches,
side by side, on shelves some 20 units wide: as exact as holes, since the neighbours that colour is smoothed with come
along, but a unit under two rows of patches comes twice, and whoever resamples needs a map from patches to places.
Writes benchmarks/results/holes.json.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from tqdm import tqdm

from benchmarks.loader_ours import Ours, planned
from benchmarks.loader_peers import Setting
from benchmarks.measuring import benchmark_parser, spread, write_result
from pipeline.graph.bad_samples import RowReader
from pipeline.graph.decoding import decode_whole, decode_window
from pipeline.graph.inputs import planned_ids, row_sizes, told_rows, window_corners
from pipeline.graph.kernels.needs import mark_needs
from pipeline.graph.kernels.sampling import ids_at
from pipeline.graph.settings import GraphSettings
from pipeline.jpeg.addressable import units_of
from pipeline.jpeg.kernels.frame import (
    DATA_AT,
    FRAME_SIZE,
    HOLE_BYTES,
    MAX_HOLE_BYTES,
    NUM_COLUMNS,
    UNIT_HEIGHT,
    UNIT_WIDTH,
    read_frame,
    write_header,
)
from pipeline.jpeg.kernels.splice import units_around
from pipeline.plan.step import StepPlan
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.reader import SampleReader

KEEP_RATES = (0.2, 0.4, 0.6, 1.0)
BATCH_SIZE, IMAGE_SIZE, PATCH_SIZE = 64, 224, 16
SHELF_UNITS = 20
Files = list[np.ndarray]
Inputs = tuple[Files, Files | None, Files | None]  # files, and the corners and sizes of what is decoded of them


def packed(file: np.ndarray, told: np.ndarray, corner: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The units that an image's kept patches are made from, side by side, row of patches by row of patches."""
    units, grid = units_of(file), IMAGE_SIZE // PATCH_SIZE
    frame, hole = np.zeros(FRAME_SIZE, np.int64), np.zeros(MAX_HOLE_BYTES, np.uint8)
    read_frame(file, frame, hole)
    region = np.zeros(4, np.int64)
    units_around(frame, *corner, *(corner + size), region)
    ids = ids_at(told)
    head = told[: len(told) - len(ids)]
    strips = defaultdict(list)  # by their height: the unit at the top of each of their columns
    for patch_row in range(grid):
        row_ids = ids[(ids // grid).astype(int) == patch_row]
        if not len(row_ids):
            continue
        needed = np.zeros((region[2] - region[0], region[3] - region[1]), dtype=bool)
        mark_needs(np.concatenate([head, row_ids]), False, PATCH_SIZE, 0, frame, tuple(corner), region, needed)
        rows, columns = np.flatnonzero(needed.any(axis=1)), np.flatnonzero(needed.any(axis=0))
        first = (region[0] + rows[0]) * frame[NUM_COLUMNS] + region[1]
        strips[len(rows)].append(first + columns)
    return _on_shelves(file, units.lengths.reshape(-1), frame, hole, strips)


def _on_shelves(
    file: np.ndarray, lengths: np.ndarray, frame: np.ndarray, hole: np.ndarray, strips: dict[int, list[np.ndarray]]
) -> np.ndarray:
    places = frame[DATA_AT] + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    shelves: list[np.ndarray] = []
    for height, tops in strips.items():
        shelf: list[np.ndarray] = []
        for number, top in enumerate(tops):
            shelf.append(top)
            if sum(map(len, shelf)) >= SHELF_UNITS or number == len(tops) - 1:
                across = np.concatenate(shelf)
                shelves.append(across + np.arange(height)[:, None] * frame[NUM_COLUMNS])
                shelf = []
    width = max(shelf.shape[1] for shelf in shelves)
    table = np.concatenate(
        [np.pad(shelf, ((0, 0), (0, width - shelf.shape[1])), constant_values=-1) for shelf in shelves]
    )
    out = np.zeros(len(file), np.uint8)
    end = write_header(file, frame, table.shape[0] * frame[UNIT_HEIGHT], width * frame[UNIT_WIDTH], out, 0)
    parts, empty = [out[:end].tobytes()], hole[: frame[HOLE_BYTES]].tobytes()
    for number, unit in enumerate(table.reshape(-1).tolist()):
        parts.append(empty if unit < 0 else file[places[unit] : places[unit + 1] - 2].tobytes())
        parts.append(bytes([0xFF, 0xD0 + number % 8]))
    return np.frombuffer(b"".join(parts)[:-1] + b"\xd9", np.uint8)


def graph(inputs: Inputs) -> Pipeline:
    """Decodes the files, batch after batch, over and over."""
    given = [array for array in inputs if array is not None]
    at = [0]

    def source() -> tuple[Files, ...]:
        start, at[0] = at[0], (at[0] + BATCH_SIZE) % len(given[0])
        return tuple(array[start : start + BATCH_SIZE] for array in given)

    @pipeline_def(batch_size=BATCH_SIZE, num_threads=1, device_id=None, exec_dynamic=True)
    def decoding() -> Any:
        kinds = [types.UINT8, types.INT32, types.INT32][: len(given)]
        encoded, *window = fn.external_source(
            source=source, num_outputs=len(given), batch=True, dtype=kinds, ndim=[1] * len(given)
        )
        return decode_window(encoded, *window) if window else decode_whole(encoded, "cpu")

    pipeline = decoding()
    pipeline.build()
    return pipeline


def variants(ordinary: ShardIndex, addressable: ShardIndex, setting: Setting, num_batches: int) -> dict[str, Inputs]:
    """What is decoded, by name."""
    found: dict[str, Inputs] = {}

    def add(name: str, index: ShardIndex, keep_rate: float, make: Callable[..., list[Inputs]]) -> None:
        _, planner = planned(Ours({"rule": "random"}), replace(setting, shards=index.folder), keep_rate)
        parts: list[Inputs] = []
        with SampleReader(index) as reader:
            of_graph = GraphSettings(planner.data, planner.selection, planner.crop, BATCH_SIZE, 1)  # type: ignore[arg-type]
            rows = RowReader(index, reader, of_graph, None)
            for step in range(num_batches):
                parts += make(planner.plan(step), of_graph, index, reader, rows)
        files, starts, shapes = zip(*parts, strict=True)
        found[name] = (
            [one for part in files for one in part],
            None if starts[0] is None else [one for part in starts for one in part],
            None if shapes[0] is None else [one for part in shapes for one in part],
        )

    def whole(plan: StepPlan, of_graph: GraphSettings, index: ShardIndex, reader: SampleReader, _: Any) -> list[Inputs]:
        return [(reader.read(plan.sample_ids), None, None)]

    def window(
        plan: StepPlan, of_graph: GraphSettings, index: ShardIndex, reader: SampleReader, _: Any
    ) -> list[Inputs]:
        start, stop = window_corners(plan, of_graph, row_sizes(plan, index))
        return [(reader.read(plan.sample_ids), list(start), list(stop - start))]

    def holes(
        plan: StepPlan, of_graph: GraphSettings, index: ShardIndex, reader: SampleReader, rows: RowReader
    ) -> list[Inputs]:
        start, stop = window_corners(plan, of_graph, row_sizes(plan, index))
        read = rows.read(plan)
        return [([file.copy() for file in read.images], list(start - read.origins), list(stop - start))]

    def together(
        plan: StepPlan, of_graph: GraphSettings, index: ShardIndex, reader: SampleReader, _: Any
    ) -> list[Inputs]:
        sizes = row_sizes(plan, index)
        start, stop = window_corners(plan, of_graph, sizes)
        told = told_rows(plan, of_graph, sizes, planned_ids(plan, of_graph))
        files = reader.read(plan.sample_ids)
        made = [packed(files[i], told[i], start[i], stop[i] - start[i]) for i in range(plan.num_rows)]
        return [(made, None, None)]

    add("whole images", ordinary, 1.0, whole)
    add("crops' windows", ordinary, 1.0, window)
    add("whole images, addressable", addressable, 1.0, whole)
    add("crops' windows, addressable", addressable, 1.0, window)
    for keep_rate in KEEP_RATES:
        add(f"holes, keep {keep_rate:g}", addressable, keep_rate, holes)
        add(f"packed, keep {keep_rate:g}", addressable, keep_rate, together)
    return found


def measure(inputs: dict[str, Inputs], repeats: int) -> list[dict[str, Any]]:
    """A line for each: processor time an image, and bytes of the files."""
    graphs = {name: graph(one) for name, one in inputs.items()}
    times: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in tqdm(range(repeats), disable=not sys.stderr.isatty()):
        for name, pipeline in graphs.items():
            pipeline.run()
            num_batches, start = len(inputs[name][0]) // BATCH_SIZE, time.process_time()
            for _ in range(num_batches):
                pipeline.run()
            times[name].append(1e3 * (time.process_time() - start) / (num_batches * BATCH_SIZE))
    return [
        {
            "decoded": name,
            "cpu_ms_per_image": spread(times[name]),
            "bytes_per_image": round(float(np.mean([len(file) for file in inputs[name][0]]))),
        }
        for name in inputs
    ]


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("holes", __doc__)
    parser.set_defaults(data=Path("data/real-photographs"), repeats=9)
    parser.add_argument("--batches", type=int, default=6, help=f"of {BATCH_SIZE} images (default: %(default)s)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    folder = options.data.with_name(f"{options.data.name}-addressable")
    ordinary, addressable = open_index(options.data, "train"), open_index(folder, "train")
    setting = Setting(options.data, IMAGE_SIZE, PATCH_SIZE, 1000, BATCH_SIZE, 1)
    lines = measure(variants(ordinary, addressable, setting, options.batches), options.repeats)
    for line in lines:
        time_ms = line["cpu_ms_per_image"]
        print(
            f"{line['decoded']:28} {time_ms['median']:.3f} ms ({time_ms['min']:.3f} to {time_ms['max']:.3f}), "
            f"{line['bytes_per_image']:,} bytes"
        )
    result = {"batch_size": BATCH_SIZE, "batches": options.batches, "repeats": options.repeats, "lines": lines}
    write_result(options.out, "benchmarks.holes", argv, result, load_before)


if __name__ == "__main__":
    main()
