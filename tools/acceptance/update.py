"""The cost of an update under torch's profiler, in each precision and at each stage of ZeRO."""

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch.profiler import record_function

from engine.config import load_config
from engine.prepare import prepare
from engine.ranks.world import World
from tools.acceptance.cost import Cost, costs, milliseconds, problems_of, typical
from tools.acceptance.runs import NUM_CLASSES, config_of, write_config
from tools.acceptance.sizes import Size
from tools.profile.bench import Bench
from tools.profile.trace import chrome_trace, profiled

PRECISIONS = ("fp32", "bf16")
ZERO_STAGES = (0, 1, 2)
_STEP = "DeepSpeedEngine.step"
_WHOLE = "optimizer"  # clipping included, as tools.profile names it
_WARM_UP, _RECORDED = 3, 5


def count_updates(size: Size, photographs: Path, world: World) -> dict[str, Any]:
    """Record some training steps of each combination.

    Returns:
        ``updates`` (each with ``run``, ``precision``, ``zero_stage``, the cost of ``DeepSpeedEngine.step`` and that of
        the ``whole`` update), ``judged`` (on a GPU only) and ``problems``; ``model`` and its number of ``parameters``.
    """
    on_gpu = world.device.type == "cuda"
    name, options = size.update_model
    values = config_of(
        photographs, size, name=name, options=options, batch_size=size.update_batch_size, num_classes=NUM_CLASSES
    )
    updates, problems, parameters = [], list[str](), 0
    with TemporaryDirectory() as folder:
        path = write_config(values, Path(folder) / "update.yaml")
        for precision in PRECISIONS:
            for stage in ZERO_STAGES:
                run = f"{precision}, ZeRO {stage}"
                print(f"-- {run}", flush=True)
                settings = [f"engine.precision={precision}", f"engine.zero_stage={stage}"]
                try:
                    step, whole, parameters = _update(path, settings, world)
                except Exception as error:  # whatever it is, the others are tried as well
                    traceback.print_exc(file=sys.stderr)
                    problems.append(f"{run}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                    continue
                one = typical(step)
                problems += problems_of(one, run, stage) if on_gpu else []
                updates.append(
                    {
                        "run": run,
                        "precision": precision,
                        "zero_stage": stage,
                        "step": one.as_json() | milliseconds(step),
                        "whole": typical(whole).as_json() | milliseconds(whole),
                    }
                )
    return {
        "model": name,
        "parameters": parameters,
        "batch_size": size.update_batch_size,
        "updates": updates,
        "judged": on_gpu,
        "problems": problems,
    }


def _update(config: Path, settings: list[str], world: World) -> tuple[list[Cost], list[Cost], int]:
    """Costs of the engine's step, and of the whole update, step by step; and the model's number of parameters."""
    prepared = prepare(load_config(config, settings), world)
    bench = Bench(prepared, world, trains=True)
    try:
        batch = bench.time_loader(prepared.plan.schedule.stage(0), 1).last
        with _named_steps():
            bench.time_steps(batch, _WARM_UP)
            with profiled(world.device) as recorded:
                bench.time_steps(batch, _RECORDED)
        events = chrome_trace(recorded)["traceEvents"]
        return costs(events, _STEP), costs(events, _WHOLE), len(list(prepared.model.parameters()))
    finally:
        del bench
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _named_steps() -> Iterator[None]:
    """Inside, a trace shows where DeepSpeed's engine steps."""
    plain = DeepSpeedEngine.step

    def step(self: DeepSpeedEngine, *arguments: Any, **settings: Any) -> Any:
        with record_function(_STEP):
            return plain(self, *arguments, **settings)

    DeepSpeedEngine.step = step
    try:
        yield
    finally:
        DeepSpeedEngine.step = plain
