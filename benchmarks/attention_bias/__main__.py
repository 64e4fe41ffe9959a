"""A training step of BEiT on kept patches: with its bias as it is made, as it was made before, and without any.

    python -m benchmarks.attention_bias

Forward and backward, the patches resident in uint8. The ways take turns in one process, several times over; a ratio is
within a round. On a CPU a ratio is of processor time on one core, which other work on the machine disturbs least; on
a GPU it is of elapsed time, and flex attention takes part too. Beside the steps, how often each calls what reads or
adds up by index, or sorts; and the bias and its gradient alone. About five minutes. Writes
benchmarks/results/attention_bias.json.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.attention_bias.ways import WAYS, WAYS_ON_A_GPU
from benchmarks.measuring import RESULTS, keep_to_cores, spread, write_result
from engine.models.patch_beit import PatchBeit, bias_rows
from engine.models.patch_embed import PatchModel

MODEL, NUM_PATCHES, PATCH_VALUES, NUM_CLASSES = "beit_base_patch16_224", 196, 16 * 16 * 3, 1000
OURS, BEFORE, WITHOUT = "ours", "before", "without bias"
MAKING_ONE = (OURS, BEFORE)
BY_INDEX = ("index", "gather", "scatter_add_", "embedding", "embedding_dense_backward", "index_put_", "sort")
ELAPSED, PROCESSOR = "step_s", "step_cpu_s"

Step = Callable[[], None]


def training_step(model: PatchModel, patches: Tensor, ids_keep: Tensor, labels: Tensor, precision: str) -> Step:
    """Forward and backward; in bf16 under autocast, with weights in float32."""

    def step() -> None:
        with torch.autocast(patches.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(patches, ids_keep)
        F.cross_entropy(logits.float(), labels).backward()
        model.zero_grad()

    return step


def bias_alone(model: PatchModel, ids_keep: Tensor, precision: str) -> Step:
    """The bias of every block and the gradient of every table, with no attention between them."""
    assert isinstance(model, PatchBeit)
    index, places = model.blocks[0].attn.relative_position_index, F.pad(ids_keep.long() + 1, (1, 0))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    (batch_size, num_tokens), num_heads = places.shape, model.blocks[0].attn.num_heads
    gradient = torch.randn(batch_size, num_heads, num_tokens, num_tokens, dtype=dtype, device=ids_keep.device)

    def step() -> None:
        rows = bias_rows(index, places, dtype)
        for block in model.blocks:
            block.attn._rows = rows
            block.attn._get_rel_pos_bias().backward(gradient)
        model.zero_grad()

    return step


def all_steps(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Step], dict[str, Step]]:
    """A step of every way, on the same patches; and its bias alone, of the ways that make one."""
    torch.manual_seed(0)
    batch_size, num_kept, precision = options.batch_size, options.num_kept, options.precision
    ids = torch.rand(batch_size, NUM_PATCHES).argsort(dim=1)[:, :num_kept].sort(dim=1).values.int().to(device)
    patches = torch.randint(0, 256, (batch_size, num_kept, PATCH_VALUES), dtype=torch.uint8).to(device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,)).to(device)
    models = {way: WAYS_ON_A_GPU[way](options.model).to(device) for way in options.only}
    steps = {way: training_step(model, patches, ids, labels, precision) for way, model in models.items()}
    return steps, {way: bias_alone(models[way], ids, precision) for way in MAKING_ONE if way in models}


def measure(steps: dict[str, Step], repeats: int, device: torch.device) -> dict[str, dict[str, list[float]]]:
    """Seconds of each step in each round, elapsed and of the processor, after one round to warm up."""
    times: dict[str, dict[str, list[float]]] = {way: {ELAPSED: [], PROCESSOR: []} for way in steps}
    for number in range(repeats + 1):
        # Another order in every round, so that no way always comes behind the same other one.
        for way in (list(steps) * 2)[number % len(steps) :][: len(steps)]:
            elapsed, processor = time.perf_counter(), time.process_time()
            steps[way]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[way][ELAPSED].append(time.perf_counter() - elapsed)
                times[way][PROCESSOR].append(time.process_time() - processor)
    return times


def calls(step: Step) -> dict[str, int]:
    """How often one step calls each of ``BY_INDEX``, and in ``kernels that sort`` what it starts on a GPU."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiled:
        step()
    counts = {event.key: event.count for event in profiled.key_averages()}
    found = {name: counts.get(f"aten::{name}", 0) for name in BY_INDEX}
    sorting = sum(count for key, count in counts.items() if "sort" in key.lower() and not key.startswith("aten::"))
    return found | {"kernels that sort": sorting}


def summarize(times: dict[str, dict[str, list[float]]], device: torch.device) -> list[dict[str, Any]]:
    clock = ELAPSED if device.type == "cuda" else PROCESSOR
    rows = []
    for way, clocks in times.items():
        row: dict[str, Any] = {"way": way, **{name: spread(seconds) for name, seconds in clocks.items()}}
        for what, other in (("over_ours", OURS), ("over_none", WITHOUT)):
            if other in times and way != other:
                row[what] = spread([a / b for a, b in zip(clocks[clock], times[other][clock], strict=True)])
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="benchmarks.attention_bias", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=MODEL, help="(default: %(default)s)")
    parser.add_argument("--num-kept", type=int, default=117, help="patches, of 196 (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="of each step (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=1, help="cores, and threads (default: %(default)s)")
    ways = list(WAYS_ON_A_GPU if torch.cuda.is_available() else WAYS)
    parser.add_argument("--only", nargs="+", choices=ways, default=ways, help="ways to measure (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "attention_bias.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    torch.set_num_threads(options.cores)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, alone = all_steps(options, device)
    found = {
        "steps": summarize(measure(steps, options.repeats, device), device),
        "bias_alone": summarize(measure(alone, options.repeats, device), device),
    }
    for row in found["steps"]:
        row["calls"] = calls(steps[row["way"]])
    print("\n".join(f"{what}\n{describe(rows)}" for what, rows in found.items()))
    facts = {
        name: getattr(options, name) for name in ("model", "num_kept", "precision", "batch_size", "repeats", "cores")
    }
    write_result(options.out, "benchmarks.attention_bias", argv, {**facts, **found}, load_before)


def describe(rows: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    lines = [f"{'way':16} {'ms':>8} {'cpu ms':>8} {'x ours':>7} {'x none':>7}"]
    for row in rows:
        clocks = [f"{1000 * row[clock]['median']:8.1f}" for clock in (ELAPSED, PROCESSOR)]
        ratios = [f"{row[what]['median']:7.3f}" if what in row else " " * 7 for what in ("over_ours", "over_none")]
        lines.append(f"{row['way']:16} {' '.join(clocks + ratios)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
